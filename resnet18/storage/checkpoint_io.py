"""Writing checkpoints: whole or not at all, on the disk when it is said to be, and one good one always kept.

A file is written under a temporary name, forced to the disk (``fsync``), and renamed; a kill or a power cut at any
moment leaves the old file or the new one. Lightning's own writer renames too, but neither forces the file nor the
rename to the disk, and holds the whole file in memory first.
"""

import contextlib
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor

from resnet18.errors import RunError
from resnet18.storage.checkpoints import LAST, PREVIOUS


class AtomicCheckpointIO(TorchCheckpointIO):
    """Whole files, and of ``last.ckpt`` the one before as well, as ``previous.ckpt``.

    Raises:
        RunError: In ``save_checkpoint``, where the file can't be written; the one before is untouched.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not the path itself to torch.save: its own writer says of a full disk only that it failed.
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                _keep(path, path.with_name(PREVIOUS))
            partial.replace(path)
            _force_names(path.parent)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise RunError(f"{path} can't be written: {_reason(error)}{_left(path)}") from error


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Writes in a thread of its own: the training goes on while the disk is waited for.

    Lightning's ``AsyncCheckpointIO`` drops a state dict's metadata, by which torch knows the version of a layer.

    Raises:
        RunError: In ``save_checkpoint`` and ``teardown``, where the file before could not be written.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __reduce__(self) -> tuple[type["BackgroundCheckpointIO"], tuple[()]]:
        return type(self), ()  # what copies a Trainer gets a thread of its own, with nothing to write

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.teardown()
        kept = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().clone())
        if metadata := getattr(checkpoint.get("state_dict"), "_metadata", None):
            kept["state_dict"]._metadata = metadata
        self._pending = self._thread.submit(super().save_checkpoint, kept, path)

    def teardown(self) -> None:
        """Waits for the file that is being written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name, in place of what had it.

    Where there are hard links, neither name is without a whole file at any moment; else the second one has it.
    """
    link = previous.with_name(f".{previous.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        path.replace(previous)
    else:
        link.replace(previous)


def _force_names(folder: Path) -> None:
    with contextlib.suppress(OSError):  # where a directory can't be opened, as on Windows
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: BaseException) -> str:
    """What the file system said; torch's writer stumbles over it once more and raises an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return str(error).splitlines()[0][:200]


def _left(path: Path) -> str:
    try:
        free = shutil.disk_usage(path.parent).free / 1e6
    except OSError:
        return ""
    kept = f"; {path.name} is still that of the last time" if path.exists() else ""
    return f" ({free:,.0f} MB free){kept}"
