"""``lightning export``: the weights of a run as one file for other programs, with a model card beside it.

An .onnx or a .pt2 file takes images as they are decoded, uint8 N×H×W×C of any size: the resizing and the normalisation
are inside. A .safetensors file holds the weights alone. Each is opened again and compared with the run.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from resnet18.cli.notices import filter_notices
from resnet18.cli.plain import PlainParser, whole
from resnet18.errors import RunError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from resnet18.runs import Run

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
USES = {
    "onnx": "onnxruntime.InferenceSession({!r}).run(None, {{'images': images}})  # uint8 N×H×W×C, of any size",
    "torch": "torch.export.load({!r}).module()(images)  # uint8 N×H×W×C, of any size",
    "safetensors": "safetensors.torch.load_model(network, {!r})",
}
IMAGES, ENOUGH = 64, 32  # to compare on


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning export ARGUMENTS`` does."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("--ckpt_path", required=True, metavar="RUN", help="a run's directory, or a checkpoint")
    parser.add_argument("--format", choices=SUFFIXES, help="by default as --output ends, or onnx")
    parser.add_argument("--output", type=Path, metavar="FILE", help="by default model.onnx, …, in the run's directory")
    parser.add_argument("--opset", type=whole(1), metavar="N", help="of ONNX; by default the exporter's own choice")
    parser.add_argument("--images", metavar="DIR", help="to compare on, instead of the validation images")
    parser.add_argument("--license", default="other", metavar="NAME", help="for the card, as the Hub calls it")
    parser.add_argument("--overwrite", action="store_true", help="even a card that was edited")
    given = parser.parse_args(arguments)
    kind = _kind(given.format, given.output)
    if given.opset and kind != "onnx":
        raise UsageError(f"--opset: {kind} has none")
    filter_notices()  # before Lightning is imported
    from resnet18.commands.export_formats import compare, write
    from resnet18.commands.model_card import model_card, summary
    from resnet18.runs import load_run

    found = load_run(given.ckpt_path)
    path = given.output or (found.directory or found.checkpoint_path.parent) / f"model{SUFFIXES[kind]}"
    card = path.with_name(f"{path.name}.md")
    if not given.overwrite:
        _refuse_foreign(path, card)
    partial, partial_card = (one.with_name(f".{one.name}") for one in (path, card))
    try:
        partial.touch()  # not only after a minute
        if found.model.input_size is None:
            raise RunError(f"{found.checkpoint_path} does not say its input_size")
        images, on = _images(found, given.images)
        parity = compare(kind, write(kind, partial, found, summary(found), given.opset), found.model, images)
        partial_card.write_text(_signed(model_card(found, kind, path, parity, on, given.license)), encoding="utf-8")
        partial.replace(path)
        partial_card.replace(card)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
        partial_card.unlink(missing_ok=True)
    print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB, opened again and compared on {on}")
    print(f"as in PyTorch   logits within {parity.apart:.2g}, {parity.images} of {parity.images} classes equal")
    print(f"as in the run   logits within {parity.own_apart:.2g}, {parity.own_same} of {parity.images} classes equal")
    print(f"card            {card}")
    print(f"use             {USES[kind].format(str(path))}")


def _kind(named: str | None, output: Path | None) -> str:
    if output is None:
        return named or "onnx"
    kind = next((kind for kind, suffix in SUFFIXES.items() if suffix == output.suffix), None)
    if kind is None or named not in (None, kind):
        raise UsageError(f"--output: {output} should end in {SUFFIXES.get(named or '', ', '.join(SUFFIXES.values()))}")
    return kind


def _signed(card: str) -> str:
    digest = sha256(card.encode()).hexdigest()[:16]
    return f"{card}\n<!-- {digest}: lightning export replaces this file as long as it is not edited -->\n"


def _refuse_foreign(path: Path, card: Path) -> None:
    """UsageError where a file is in the way that this command has not written, or a card that was edited since."""
    content = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if (path.exists() or card.exists()) and content != _signed(content[: content.rfind("\n<!--")]):
        there = card if card.exists() else path
        raise UsageError(f"--output: {there} is not as this command wrote it; --overwrite replaces it all the same")


def _images(run: "Run", folder: str | None) -> tuple[Iterable["Tensor"], str]:
    """Real images as their files have them, uint8 C×H×W each, and which they are in words."""
    import torch

    from resnet18.data.feeds.files import Files
    from resnet18.data.unlabelled import Unlabelled

    try:
        if folder:
            described = {name: run.model.hparams[name] for name in ("class_names", "mean", "std", "input_size")}
            source, what = Unlabelled(folder, **described).load("test"), f"images of {Path(folder).resolve().name}"
            names = source.names
        else:
            run.data.setup("validate")
            source, what = run.data.load("val" if run.data.has_val else "train"), "validation images"
            names = run.data.image_ids("val")
    except (RunError, ValueError, OSError) as error:
        raise RunError(f"{error}; --images DIR names others to compare on") from None
    count = min(IMAGES, len(names))
    on = f"{'only ' if count < ENOUGH else ''}{count} {what}"
    if not isinstance(source, Files):
        return (image for images, *_ in run.data.evaluation_dataloader("val", count) for image in images), on
    channels = (run.model.input_size or (3,))[0]
    chosen = [source.root / names[number] for number in torch.linspace(0, len(names) - 1, count).long().tolist()]
    return (_decoded(path, channels) for path in chosen), on


def _decoded(path: Path, channels: int) -> "Tensor":
    from resnet18.data.feeds.decode import UnreadableImage, decode

    try:
        return decode(path, channels)
    except UnreadableImage as error:
        raise RunError(f"{path}: {error}") from None
