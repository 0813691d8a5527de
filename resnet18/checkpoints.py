"""Finding and reading checkpoints, with nothing in them that could run.

Everything is read with ``weights_only=True``: tensors and plain values. A run is named by its directory, a link to it
(``runs/digits/latest``) or a checkpoint file.
"""

import difflib
import pickle
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from resnet18.errors import RunError

FOLDER, BEST, LAST, PREVIOUS = "checkpoints", "best.ckpt", "last.ckpt", "previous.ckpt"
ZIP_START = b"PK\x03\x04"
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # what torch.save wrote before it wrote archives
CONFIG_KEY = "config"  # where a checkpoint keeps the configuration of its run


def find_checkpoint(place: str | Path, prefer: Sequence[str] = (BEST, LAST)) -> Path:
    """The checkpoint file that a path names: itself, or the first of ``prefer`` in a run's directory.

    Raises:
        RunError: Where there is none.
    """
    place = Path(place).expanduser()
    if place.is_dir():
        for name in prefer:
            if (place / FOLDER / name).is_file():
                return place / FOLDER / name
        raise RunError(f"{place} holds no {' or '.join(f'{FOLDER}/{name}' for name in prefer)}")
    if not place.is_file():
        raise RunError(f"there is no checkpoint or run {place}{_neighbours(place)}")
    return place


def run_directory(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in, or None for a file on its own."""
    folder = checkpoint.resolve().parent
    run = folder.parent
    if folder.name != FOLDER or not (run / "config.yaml").is_file():
        return None
    return run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint or a state dict.

    Raises:
        RunError: For a file that is cut off, damaged or no checkpoint, and for one that carries pickled code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(ZIP_START):
            _check_archive(path)
        elif not start.startswith(LEGACY_START):  # torch would take any bytes for instructions of pickle's
            raise RunError(f"{path} {_what_it_is(start)}")
        content = torch.load(path, map_location=map_location, weights_only=True)
    except RunError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise RunError(f"{path} is damaged: {_first_line(error)}") from None
        raise RunError(
            f"{path} carries pickled code ({named[1]}) and was not loaded: a checkpoint holds tensors and plain values"
        ) from None
    except EOFError:
        raise RunError(f"{path} is cut off") from None
    except Exception as error:  # whatever a damaged file makes of torch's reader
        raise RunError(f"{path} can't be read: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict")
    return content


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise RunError(f"{path} is cut off: it begins as a checkpoint does, and its end is missing")
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise RunError(f"{path} is a ZIP archive, but not a checkpoint: torch.save did not write it")
        if damaged := archive.testzip():  # torch does not look at the checksums that it writes
            raise RunError(f"{path} is damaged: {damaged} is not what was written")


def _what_it_is(start: bytes) -> str:
    """What to say of a file that torch has not written, from its first bytes."""
    if not start:
        return "is empty"
    if start[0] == 0x80 and start[1:2] <= b"\x05":
        return "is a pickle that torch.save did not write, and was not loaded, for it could run code"
    line = start.decode(errors="replace").lstrip().partition("\n")[0].strip()
    kind = (
        f"it begins with {line[:40]!r}"
        if line.isprintable() and "\ufffd" not in line
        else "torch.save did not write it"
    )
    return f"is not a checkpoint: {kind}"


def read_resumable(place: str | Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint to go on from, and its content: of a broken ``last.ckpt`` the one before it, with a warning.

    Raises:
        RunError: Where neither can be read.
    """
    path = find_checkpoint(place, (LAST, PREVIOUS, BEST))
    try:
        return path, read_checkpoint(path)
    except RunError as error:
        previous = path.with_name(PREVIOUS)
        if path.name != LAST or not previous.is_file():
            raise
        content = read_checkpoint(previous)
        _warn(f"{error}; going on from {PREVIOUS}, step {content.get('global_step', 0):,}")
        return previous, content


@rank_zero_only
def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _neighbours(place: Path) -> str:
    siblings = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, siblings, n=1)
    return f"; did you mean {place.with_name(near[0])}?" if near else ""
