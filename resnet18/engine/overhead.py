"""Where a profiler writes; and no profiler, for free.

Without one Lightning enters a generator-based context manager for every hook of every callback, 70 times a step;
:class:`NoProfiler` enters one that does nothing and is made once.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from resnet18.errors import UsageError

_NOTHING = nullcontext()
_KINDS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


class NoProfiler(PassThroughProfiler):
    def profile(self, action_name: str) -> AbstractContextManager:  # type: ignore[override]
        return _NOTHING


def profiler_into(directory: Path | None, profiler: Profiler | str | None) -> Profiler:
    """The profiler of a configuration, which writes ``fit-profile.txt`` instead of lines of 260 characters on screen.

    Args:
        directory: Where to, unless it has a place of its own; None for the screen.
        profiler: ``trainer.profiler``.

    Raises:
        UsageError: For a name that stands for none.
    """
    if profiler is None:
        return NoProfiler()
    if isinstance(profiler, str):
        if profiler not in _KINDS:
            raise UsageError(f"trainer.profiler: expected {', '.join(_KINDS)} or a class, not {profiler!r}")
        profiler = _KINDS[profiler]()
    if directory is not None:
        profiler.dirpath, profiler.filename = profiler.dirpath or directory, profiler.filename or "profile"
    return profiler


def report_of(trainer: Trainer) -> Path | None:
    """The file that a Trainer's profiler has written, if it has."""
    profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
    path = Path(profiler.dirpath or "", profiler._prepare_filename())
    return path if profiler.filename and path.is_file() else None
