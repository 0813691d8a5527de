"""Cheaper versions of what costs Lightning and torch time in each step or at a run's end; and a profiler's file."""

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
        # Lightning sets the name of the running hook here some 45 times a step; nn.Module would check each time whether
        # it is a parameter, a module or a buffer.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class NoProfiler(PassThroughProfiler):
    """No profiler, at no cost: Lightning's makes a context manager for every hook of every callback, 70 a step."""

    def profile(self, action_name: str) -> AbstractContextManager:  # type: ignore[override]
        return NOTHING


def profiler_into(directory: Path | None, profiler: Profiler | str | None) -> Profiler:
    """The profiler of a configuration; it writes a file in ``directory``, if given, unless it has a path of its own."""
    if profiler is None:
        return NoProfiler()
    if isinstance(profiler, str):
        if profiler not in PROFILERS:
            raise UsageError(f"trainer.profiler: expected {', '.join(PROFILERS)} or a class, not {profiler!r}")
        profiler = PROFILERS[profiler]()
    if directory is not None:  # on screen its lines have 260 characters
        profiler.dirpath, profiler.filename = profiler.dirpath or directory, profiler.filename or "profile"
    return profiler


def report_of(trainer: Trainer) -> Path | None:
    """The file that a Trainer's profiler has written, if any."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    path = Path(profiler.dirpath or "", profiler._prepare_filename())
    return path if profiler.filename and path.is_file() else None


def end_workers(batches: DataLoader[Any]) -> None:
    """Ends a loader's workers now: its destructor, maybe in another process, would wait 5 s for each."""
    iterator, batches._iterator = batches._iterator, None
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        iterator._shutdown_workers()
