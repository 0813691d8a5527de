"""Writes a model as a file for other programs, opens that as they would, and compares the two."""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from resnet18.backbone import ResNet
from resnet18.classifier import Classifier
from resnet18.data.feeds.decode import centre
from resnet18.data.feeds.traceable import centres
from resnet18.errors import RunError, UsageError
from resnet18.runs import Run

AXES = ({0: Dim("batch", min=1), 1: Dim("height", min=1), 2: Dim("width", min=1)},)  # free in the exported graph
PROTOBUF = 2**31  # bytes, the most that one ONNX file holds
BATCHES = (3, 64)  # beside single images: exporters were seen to freeze the batch, or to be wrong beyond one image
# Of the images: those that lie between two classes may change sides for single grey values in the few pixels that the
# file resizes otherwise. Without antialiasing a small network changed 19 % of photographs, with blue for red 65 %.
AGREE = 0.95

Logits = Callable[[Tensor], Tensor]  # uint8 N×H×W×C → float32 N×num_classes


class RawPixels(nn.Module):
    """A model behind its own preprocessing: uint8 N×H×W×C images of any H and W → float32 N×num_classes logits."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        assert model.input_size is not None
        seen = centres(images.permute(0, 3, 1, 2), model.input_size[1:], model.eval_share, model.interpolation)
        return model(seen).float()


def write(kind: str, path: Path, run: Run, summary: dict[str, Any], opset: int | None = None) -> Logits:
    """Writes the run's model, with a summary in the file, and opens the file with the library for it.

    Raises:
        UsageError: For an opset that the exporter can't give.
        RunError: Where a package is missing, and for a network that can't be exported.
    """
    try:
        with _quiet(), torch.no_grad():  # not inference_mode: weights moved under that can't be exported
            return FORMATS[kind][1](path, run, summary, opset)
    except (RunError, UsageError):
        raise
    except ImportError as error:
        raise RunError(f"{kind} needs {error.name}: pip install 'resnet18[export]'") from None
    except Exception as error:  # anything that a network's code, an exporter or a reader raises
        raise RunError(f"this network can't be exported as {kind}: {_reason(error)}") from None


def _traced(model: Classifier) -> ExportedProgram:
    assert model.input_size is not None
    channels, height, width = model.input_size
    # Sizes of 0 and 1, and equal ones, would be taken for constants.
    example = torch.zeros(2, height + 3, width + 5, channels, dtype=torch.uint8)
    program = torch.export.export(RawPixels(model), (example,), dynamic_shapes=AXES)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would be stored, with the paths of this machine
    return program


def _onnx(path: Path, run: Run, summary: dict[str, Any], opset: int | None) -> Logits:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  # torch's exporter needs it

    if (size := sum(tensor.nbytes for tensor in run.model.state_dict().values())) >= PROTOBUF:
        raise RunError(f"one ONNX file holds 2 GB, and these weights are {size / 2**30:.1f} GB: --format torch")
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": AXES}
    made = torch.onnx.export(_traced(run.model), dynamo=True, verbose=False, opset_version=opset, **names)
    assert made is not None
    if opset not in (None, found := made.model.opset_imports[""]):
        raise UsageError(f"--opset: the exporter can't give {opset}, but {found}")
    made.model.metadata_props.update(_texts(summary))
    made.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _torch(path: Path, run: Run, summary: dict[str, Any], opset: int | None) -> Logits:
    torch.export.save(_traced(run.model), path, extra_files={"card.json": json.dumps(summary)})
    return torch.export.load(path).module()


def _safetensors(path: Path, run: Run, summary: dict[str, Any], opset: int | None) -> Logits:
    from safetensors.torch import load_file, save_file
    from torchvision.models import resnet18

    # Copies: the format takes neither channels-last memory nor tensors that share it.
    weights = run.model.backbone.state_dict().items()
    save_file({name: one.clone(memory_format=torch.contiguous_format) for name, one in weights}, path, _texts(summary))
    model = Classifier.load_from_checkpoint(run.checkpoint_path)
    if is_torchvisions(model.backbone):
        model.backbone = resnet18(num_classes=model.num_classes).to(memory_format=model.memory_format)
    for tensor in model.backbone.state_dict().values():
        tensor.zero_()  # the file is to hold them all
    model.backbone.load_state_dict(load_file(path))
    return RawPixels(model.eval())


# How far its logits may be from PyTorch's (two runtimes are about 1e-6 apart), as a share of the largest logit, or of 1
# if that is smaller; and how it is written and opened.
FORMATS: dict[str, tuple[float, Callable[[Path, Run, dict[str, Any], int | None], Logits]]] = {
    "onnx": (1e-4, _onnx),
    "torch": (1e-4, _torch),
    "safetensors": (0.0, _safetensors),
}


def is_torchvisions(backbone: nn.Module) -> bool:
    """Whether a network's weights are those of ``torchvision.models.resnet18``."""
    if type(backbone) is not ResNet or not isinstance(backbone.maxpool, nn.MaxPool2d):
        return False
    return backbone.in_channels == 3 and backbone.conv1.out_channels == 64


def _texts(summary: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in summary.items()}


class Parity(NamedTuple):
    """How near a file is to its run, on real images."""

    images: int
    apart: float  # logits at most, from PyTorch's of the same raw pixels, alone and in batches of 3 and 64
    own_apart: float  # logits at most, from those of the run's own preprocessing and model
    own_same: int  # images with the same class there; PyTorch's is the same for all


def compare(kind: str, file: Logits, model: Classifier, images: Iterable[Tensor]) -> Parity:
    """Compares what :func:`write` gave with the model that it was made from, on images of uint8 C×H×W each.

    RunError where logits are farther apart than the format's bound, where a class is not PyTorch's, and where fewer
    than ``AGREE`` of the images have the run's own.
    """
    assert model.input_size is not None
    reference, size = RawPixels(model), model.input_size[1:]
    most = 4 * max(size)  # pixels of a side, to bound a batch's memory
    crops, pairs, own = list[Tensor](), list[tuple[Tensor, Tensor]](), list[Tensor]()

    def add(batch: Tensor) -> None:
        try:
            pairs.append((file(batch), reference(batch)))
        except Exception as error:
            shape = "×".join(map(str, batch.shape))
            raise RunError(f"the {kind} file fails on images of {shape}: {_reason(error)}") from None

    with torch.no_grad():
        for image in images:
            pixels = image.permute(1, 2, 0)
            add(pixels[None])
            own.append(model(centre(image, size, model.eval_share, model.interpolation)[None]).float())
            crops.append(pixels[:most, :most])
        for count in BATCHES:
            parts = (crops * count)[:count]
            height, width = (min(part.shape[side] for part in parts) for side in (0, 1))
            add(torch.stack([part[:height, :width] for part in parts]))
    found, expected = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    apart, other = float((found - expected).abs().max()), int((~_same(model, found, expected)).sum())
    if not apart <= FORMATS[kind][0] * max(1, float(expected.abs().max())) or other:  # NaN is not
        how = f"logits are {apart:.1e} apart, and {other} of {len(found)} images get another class"
        raise RunError(f"the {kind} file does not compute what PyTorch does: {how}")
    found, expected = found[: len(own)], torch.cat(own)
    same = int(_same(model, found, expected).sum())
    if same < AGREE * len(own):
        raise RunError(f"the {kind} file gives {len(own) - same} of {len(own)} images another class than the run does")
    return Parity(len(own), apart, float((found - expected).abs().max()), same)


def _same(model: Classifier, one: Tensor, other: Tensor) -> Tensor:
    """Which images get the same class, or the same classes, by two sets of logits: bool N."""
    return (model.decide(one)[0] == model.decide(other)[0]).reshape(len(one), -1).all(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what exporters print, log and warn of from the terminal: what matters is compared, or raised."""
    logging.disable(logging.CRITICAL)
    out = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _reason(error: BaseException) -> str:
    """The first lines of the innermost error, and the place in the network that it names."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d+m| For more information, run with \S+", "", str(error)).strip() or type(error).__name__
    place = re.search(r'File "([^"]+)", line (\d+)', text)
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return shorten(" ".join(lines[:2]), 300) + (f" ({place[1]}:{place[2]})" if place else "")
