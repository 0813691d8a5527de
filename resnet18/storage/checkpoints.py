"""Finds and reads checkpoints, builds models from them, and loads their weights into other models.

Everything is read with ``weights_only=True``, tensors and plain values, so nothing in a checkpoint can run. A run is
named by its directory, a link to it (``runs/digits/latest``) or a checkpoint file.
"""

import difflib
import pickle
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from resnet18.errors import RunError
from resnet18.optimization import head_name
from resnet18.storage.class_paths import import_class, missing_module, parameter_names, refuse_foreign_code
from resnet18.storage.networks import make_network, prepare_stored, refuse_foreign_weights, resize_head
from resnet18.storage.records import BEST, CONFIG, FOLDER, LAST, PREVIOUS

ZIP_START = b"PK\x03\x04"
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # what torch.save wrote before it wrote archives
CONFIG_KEY = "config"  # where a checkpoint keeps the configuration of its run
PREFIX = "backbone."  # of the backbone's weights in a checkpoint


def find_checkpoint(place: str | Path, prefer: Sequence[str] = (BEST, LAST)) -> Path:
    """The checkpoint file that a path names: itself, or the first of ``prefer`` in a run's directory."""
    place = Path(place).expanduser()
    if place.is_dir():
        for name in prefer:
            if (place / FOLDER / name).is_file():
                return place / FOLDER / name
        raise RunError(f"{place} holds no {' or '.join(f'{FOLDER}/{name}' for name in prefer)}")
    if not place.is_file():
        siblings = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, siblings, n=1)
        hint = f"; did you mean {place.with_name(near[0])}?" if near else ""
        raise RunError(f"there is no checkpoint or run {place}{hint}")
    return place


def run_directory(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in, or None for a file on its own."""
    folder = checkpoint.resolve().parent
    run = folder.parent
    if folder.name != FOLDER or not (run / CONFIG).is_file():
        return None
    return run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint or a state dict; RunError for any other file and for one with pickled code."""
    try:
        _check_file(path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    except RunError:
        raise
    except EOFError:
        raise RunError(f"{path} is cut off") from None
    except Exception as error:  # a damaged file can raise anything in torch's reader
        if isinstance(error, pickle.UnpicklingError) and (code := re.search(r"GLOBAL (\S+)", str(error))):
            only = "a checkpoint holds tensors and plain values"
            raise RunError(f"{path} carries pickled code ({code[1]}) and was not loaded: {only}") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise RunError(f"{path} can't be read: {reason}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict")
    return content


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(LEGACY_START):
        return
    if not start.startswith(ZIP_START):  # torch would read any bytes as a pickle
        raise RunError(f"{path} {_kind_of(start)}")
    if not zipfile.is_zipfile(path):
        raise RunError(f"{path} is cut off: it begins as a checkpoint does, and its end is missing")
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise RunError(f"{path} is a ZIP archive, but not a checkpoint: torch.save did not write it")
        if damaged := archive.testzip():  # torch writes checksums but does not check them
            raise RunError(f"{path} is damaged: {damaged} is not what was written")


def _kind_of(start: bytes) -> str:
    """What a file is that torch did not write, from its first bytes."""
    if not start:
        return "is empty"
    if start[0] == 0x80 and start[1:2] <= b"\x05":
        return "is a pickle that torch.save did not write, and was not loaded, because it could run code"
    line = start.decode(errors="replace").lstrip().partition("\n")[0].strip()
    if not line.isprintable() or "\ufffd" in line:
        return "is not a checkpoint: torch.save did not write it"
    return f"is not a checkpoint: it begins with {line[:40]!r}"


def read_resumable(place: str | Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to resume from and its content; if ``last.ckpt`` is broken, ``previous.ckpt`` with a warning."""
    path = find_checkpoint(place, (LAST, PREVIOUS, BEST))
    try:
        return path, read_checkpoint(path)
    except RunError as error:
        previous = path.with_name(PREVIOUS)
        if path.name != LAST or not previous.is_file():
            raise
        content = read_checkpoint(previous)
        warning = f"{error}; resuming from {PREVIOUS}, step {content.get('global_step', 0):,}"
        rank_zero_only(print)(warning, file=sys.stderr)
        return previous, content


Model = TypeVar("Model", bound=LightningModule)


def primitives(hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """Those that ``torch.load`` reads with ``weights_only=True``: not the objects given to a model in Python."""
    return {name: value for name, value in hyper_parameters.items() if name != "_instantiator" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def model_from_checkpoint(
    kind: type[Model], path: Path, given: dict[str, Any], map_location: Any = "cpu", strict: bool = True
) -> Model:
    """The model, of a ``kind`` or a subclass, that a checkpoint describes; ``given`` arguments replace its own.

    A ``backbone`` may be given as the network or as what makes it from ``num_classes``. No optimizer is needed.
    """
    # Lightning's own load_from_checkpoint calls what a checkpoint names without a check.
    checkpoint = read_checkpoint(path, map_location)
    described = checkpoint.get(kind.CHECKPOINT_HYPER_PARAMS_KEY)
    if not isinstance(described, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path} does not describe a model, so it is not a checkpoint of this project")
    class_path = described.get("_class_path")
    described = {name: value for name, value in described.items() if name not in given and name[0] != "_"}
    takes = prepare_stored(described)
    parser = ArgumentParser(exit_on_error=False)
    try:
        kind = import_class(class_path, kind) if class_path else kind
        lacking = {*parameter_names(kind)} - {*described, *given}
        source = (checkpoint.get(CONFIG_KEY) or {}).get("data") or {}
        if "eval_share" in lacking and (share := (source.get("init_args") or {}).get("eval_share")):
            described["eval_share"] = share  # of an older checkpoint, which has it there alone
        if "backbone" in lacking:
            takes_it = "backbone=… takes it, or the class or function that makes it from num_classes"
            raise RunError(f"{path} does not describe its model: its backbone was an object made in Python; {takes_it}")
        if "optimizer" in lacking:
            given = {**given, "optimizer": _no_optimizer}
        if "backbone" in given:
            given = {**given, "backbone": make_network(given["backbone"], described.get("num_classes", 0))[0]}
        # As on the command line, arguments may lack a type.
        parser.add_class_arguments(kind, "model", skip=set(given), instantiate=False, fail_untyped=False)
        config = parser.parse_object({"model": described})
    except ArgumentError as error:
        if missing := missing_module(error):
            raise RunError(f"{path}: {missing}") from None
        here = "; define it here first, or give it as backbone=…" if "__main__" in str(error) else ""
        raise RunError(f"{path} does not describe its model: {shorten(str(error), 300)}{here}") from None
    refuse_foreign_code(config, str(path))
    refuse_foreign_weights(config.model.get("backbone"), str(path))
    model = kind(**vars(parser.instantiate(config).model), **given)
    model.hparams.update(described)
    if takes is None:
        resize_head(model.get_submodule("backbone"), described["num_classes"])
    try:
        model.load_state_dict(checkpoint["state_dict"], strict=strict)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the model it is for: {str(error).splitlines()[1].strip()}") from None
    return model.to(next((tensor.device for tensor in checkpoint["state_dict"].values()), "cpu"))


def _no_optimizer(parameters: Any) -> Any:
    raise RunError("this model was loaded without an optimizer: load_from_checkpoint(…, optimizer=…) gives it one")


def read_weights(source: str) -> dict[str, Tensor]:
    """A backbone's state dict from a run, a checkpoint, a file or torchvision (``ResNet18_Weights.IMAGENET1K_V1``)."""
    if not Path(source).exists() and "_Weights." in source:
        from torchvision.models import get_weight

        try:
            return dict(get_weight(source).get_state_dict(check_hash=True))
        except (ValueError, KeyError) as error:
            raise RunError(f"init_from: torchvision has no weights {source} ({error})") from None
        except OSError as error:
            raise RunError(f"init_from: {source} could not be downloaded: {error}") from None
    path = find_checkpoint(source)
    content = read_checkpoint(path)
    weights = content.get("state_dict", content)
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    weights = own or weights
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise RunError(f"init_from: {path} holds no state dict")
    return weights


def load_pretrained(backbone: nn.Module, source: str) -> str:
    """Loads all weights that fit, but for a last layer for other classes; returns what was done, in a sentence."""
    weights, head = read_weights(source), head_name(backbone)
    there = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    here = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    differing = [name for name in here | there if there.get(name) != here.get(name)]
    fresh = any(name.startswith(f"{head}.") and name in here for name in differing)
    if fresh:
        differing = [name for name in differing if not name.startswith(f"{head}.")]
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{head}.")}
    if differing:
        listed = [f"{name} is {there.get(name, 'missing')}, here {here.get(name, 'missing')}" for name in differing[:3]]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise RunError(f"init_from: {source} is of another architecture: {'; '.join(listed)}{more}")
    backbone.load_state_dict(weights, strict=False)
    return f"weights from {source}" + (f", a fresh {head} for the new classes" if fresh else "")
