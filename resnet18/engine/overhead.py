"""What Lightning and torch spend time on in every step or at a run's end, made cheaper; and where a profiler writes."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from resnet18.errors import UsageError

NOTHING = nullcontext()
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


class LeanModule(LightningModule):
    """A LightningModule whose hooks cost less."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of the running hook here some 45 times a step; nn.Module would look each time whether
        # it is a parameter, a module or a buffer.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class NoProfiler(PassThroughProfiler):
    """No profiler, for free: Lightning's own makes a context manager for every hook of every callback, 70 a step."""

    def profile(self, action_name: str) -> AbstractContextManager:  # type: ignore[override]
        return NOTHING


def profiler_into(directory: Path | None, profiler: Profiler | str | None) -> Profiler:
    """The profiler of a configuration, which writes ``fit-profile.txt`` instead of lines of 260 characters on screen.

    Args:
        directory: Where to, unless it has a place of its own; None for the screen.
        profiler: ``trainer.profiler``.

    Raises:
        UsageError: For an unknown name.
    """
    if profiler is None:
        return NoProfiler()
    if isinstance(profiler, str):
        if profiler not in PROFILERS:
            raise UsageError(f"trainer.profiler: expected {', '.join(PROFILERS)} or a class, not {profiler!r}")
        profiler = PROFILERS[profiler]()
    if directory is not None:
        profiler.dirpath, profiler.filename = profiler.dirpath or directory, profiler.filename or "profile"
    return profiler


def report_of(trainer: Trainer) -> Path | None:
    """The file that a Trainer's profiler has written, if it has."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    path = Path(profiler.dirpath or "", profiler._prepare_filename())
    return path if profiler.filename and path.is_file() else None


def end_workers(batches: DataLoader[Any]) -> None:
    """Ends a loader's workers now: when it is collected, which may be in another process, it waits 5 s for each."""
    iterator, batches._iterator = batches._iterator, None
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        iterator._shutdown_workers()
