"""Several processes that train as one: they start together, agree on stopping, and end together.

A rank that stops alone leaves the others waiting in their next collective forever. So all ranks decide on a stop at the
same point of the same step (:class:`AsyncMax`), and if one dies the others end with a message (:class:`Launcher`).
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.utilities import rank_zero
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor

from resnet18.engine.checkpointing import LastCheckpoint
from resnet18.errors import RunError, UsageError
from resnet18.storage.records import LAST

PARENT_VARIABLE = "RESNET18_LAUNCHER"  # the process id of the rank that started this one
POLL_S = 1.0
GRACE_S = 20.0  # for a rank to leave its collective by itself


class AsyncMax:
    """The largest value over all ranks, element by element, without waiting for the device's other work."""

    def __init__(self, trainer: Trainer) -> None:
        self.device, self.ranks = trainer.strategy.root_device, trainer.world_size
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._ready: torch.cuda.Event | None = None
        self._shared: Tensor | None = None

    def start(self, values: Sequence[float] | Tensor) -> None:
        """Takes this rank's numbers, the same count on every rank."""
        own = torch.as_tensor(values, dtype=torch.float32)
        if self._stream is None:
            self._shared = self._reduce(own.to(self.device))
            return
        own = own.pin_memory().to(self.device, non_blocking=True) if own.device.type == "cpu" else own.clone()
        # On a stream of its own it waits only for what was queued before now.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            own.record_stream(self._stream)
            largest = self._reduce(own)
            self._shared = torch.empty(own.shape, pin_memory=True).copy_(largest, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(self._stream)

    def _reduce(self, values: Tensor) -> Tensor:
        if self.ranks > 1:
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return values

    def wait(self) -> list[float]:
        """The largest of the numbers that were last started."""
        assert self._shared is not None, "nothing was started"
        if self._ready is not None:
            # An event: torch.cuda.set_sync_debug_mode, which finds accidental waits, objects to one for a stream.
            self._ready.synchronize()
        return self._shared.tolist()


class Launcher(_SubprocessScriptLauncher):
    """Replaces Lightning's: every rank watches those that it depends on, and reports which is gone."""

    def __init__(self, launcher: _SubprocessScriptLauncher, command: str, last: LastCheckpoint | None) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.command, self.last = command, last
        self._started_by_rank = PARENT_VARIABLE in os.environ and "LOCAL_RANK" in os.environ
        by_torchrun = os.getppid() if torch.distributed.is_torchelastic_launched() else None
        self._parent = int(os.environ[PARENT_VARIABLE]) if self._started_by_rank else by_torchrun
        self._ended = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            os.environ[PARENT_VARIABLE] = str(os.getpid())
            self._call_children_scripts()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        try:
            return function(*args, **kwargs)
        finally:
            self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            lost = self._lost()
            if lost is not None and not self._ended.wait(GRACE_S):
                if self.is_reporter():
                    print(f"lightning {self.command}: {rank_prefix()}{self._resume(lost)}", file=sys.stderr, flush=True)
                for process in self.procs:
                    process.kill()
                os._exit(1)  # the main thread waits in a collective, maybe forever

    def _lost(self) -> str | None:
        """Which rank is gone, and how, as far as this process can tell."""
        if self._parent is not None and os.getppid() != self._parent:
            return "rank 0 is gone" if self._started_by_rank else "torchrun is gone"
        first = self.cluster_environment.node_rank() * self.num_processes
        ended = [(process.poll() or 0, rank) for rank, process in enumerate(self.procs, start=first + 1)]
        for status, rank in sorted(ended):  # killed ones come first, then those that followed
            if status:
                how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
                return f"rank {rank} is gone ({how})"
        return None

    def is_reporter(self) -> bool:
        """Whether this process prints: the first on a machine, or the second if the first may be gone."""
        local_rank = self.cluster_environment.local_rank()
        return local_rank == 0 or (local_rank == 1 and not (self._started_by_rank and self._lost() is None))

    def _resume(self, lost: str) -> str:
        if self.last is None or self.last.dirpath is None:
            return lost
        if not (self.last.dirpath / LAST).exists():
            return f"{lost}; nothing was saved"
        return f"{lost}; resume with: lightning fit --ckpt_path {shlex.quote(str(self.last.dirpath.parent))}"

    def end(self, error: RuntimeError) -> NoReturn:
        """Ends the program after a collective failed: with a RunError on the rank that reports, elsewhere quietly."""
        if not torch.distributed.is_initialized():
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RunError(f"the ranks did not meet at {place}: {str(error).splitlines()[0][:200]}") from error
        limit = time.monotonic() + 2.0
        while (lost := self._lost()) is None and time.monotonic() < limit:  # its sockets close before it is gone
            time.sleep(0.05)
        if not self.is_reporter():
            sys.exit(1)
        raise RunError(self._resume(lost or "another rank is gone")) from error


def cluster_environment(trainer: Trainer) -> ClusterEnvironment:
    """What started the processes: Lightning, torchrun, SLURM, …"""
    return trainer._accelerator_connector.cluster_environment


def prepare_ranks(trainer: Trainer, command: str, last: LastCheckpoint | None, sync_batchnorm: bool) -> None:
    """UsageError if the processes do not match the configuration; then lets the ranks watch each other."""
    environment, launcher = cluster_environment(trainer), trainer.strategy.launcher
    devices = trainer.num_devices * trainer.num_nodes
    if environment.creates_processes_externally and environment.world_size() != devices:
        starter = "torchrun" if torch.distributed.is_torchelastic_launched() else "SLURM"
        raise UsageError(
            f"trainer.devices × trainer.num_nodes is {devices}, but {starter} started {environment.world_size()}: "
            "one process for each device is wanted"
        )
    if trainer.num_nodes > 1 and not environment.creates_processes_externally and "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"trainer.num_nodes is {trainer.num_nodes}, and nothing says where the others are: start it with torchrun "
            "or srun on each, or for this machine alone with --trainer.num_nodes 1"
        )
    if type(launcher) is not _SubprocessScriptLauncher:
        return
    try:
        environment.validate_settings(launcher.num_processes, launcher.num_nodes)
    except ValueError as error:
        raise UsageError(f"trainer: {error}") from None
    device = trainer.strategy.root_device.type
    if sync_batchnorm and command == "fit" and device != "cuda":
        raise UsageError(f"trainer.sync_batchnorm: torch has it for CUDA only, and the accelerator is {device}")
    trainer.strategy._launcher = Launcher(launcher, command, last)


@contextlib.contextmanager
def exit_together(trainer: Trainer) -> Iterator[None]:
    """Ends the ranks' group, and turns a failed collective into one RunError for each machine."""
    try:
        yield
        if torch.distributed.is_initialized():  # or NCCL complains when the program ends
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        launcher = trainer.strategy.launcher
        # Gloo's are plain RuntimeErrors that name its source.
        of_collective = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if not isinstance(launcher, Launcher) or not of_collective:
            raise
        launcher.end(error)


def rank_prefix() -> str:
    """The start of a rank's messages; empty for rank 0."""
    rank = getattr(rank_zero.rank_zero_only, "rank", 0)  # set by Lightning, on the function
    return f"rank {rank}: " if rank else ""
