"""Writing checkpoints: whole or not at all, and while the training continues.

A file is written under a temporary name, forced to the disk (``fsync``) and renamed: a kill or a power cut leaves the
old file or the new one. Lightning's own writer renames too, but forces nothing to the disk.
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
from resnet18.storage.records import LAST, PREVIOUS


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes whole files, and keeps the second newest ``last.ckpt`` as ``previous.ckpt``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        partial, previous = path.with_name(f".{path.name}.partial"), path.with_name(PREVIOUS)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:  # given a path, torch.save would not report a full disk
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                previous.unlink(missing_ok=True)
                try:
                    os.link(path, previous)  # a copy: last.ckpt exists at every moment
                except OSError:  # a file system without hard links
                    path.replace(previous)
            partial.replace(path)
            _sync_directory(path.parent)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise RunError(f"{path} can't be written: {_reason(error)}{_what_is_left(path)}") from error


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Writes in a thread of its own, and raises the thread's RunError at the next file or at the end."""

    # Lightning's AsyncCheckpointIO would drop the versions of a network's layers, which are metadata of its weights.

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __reduce__(self) -> tuple[type["BackgroundCheckpointIO"], tuple[()]]:
        return type(self), ()  # threads can't be copied, and WeightAveraging copies the module with its Trainer

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


def _sync_directory(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no directory
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The file system's message, which an error of torch's writer may hide."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return str(error).splitlines()[0][:200]


def _what_is_left(path: Path) -> str:
    with contextlib.suppress(OSError):
        kept = f"; {path.name} is still that of the last time" if path.exists() else ""
        return f" ({shutil.disk_usage(path.parent).free / 1e6:,.0f} MB free){kept}"
    return ""
