"""What any rank knows, shared with all of them, without waiting for what the device is busy with.

A rank that stops alone leaves the others waiting in their next collective for ever. So whatever may stop a run is put
to all ranks, at the same point of the same step.
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
from lightning.fabric.utilities import rank_zero
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor

from resnet18.engine.checkpointing import LastCheckpoint
from resnet18.errors import RunError, UsageError
from resnet18.storage.checkpoints import LAST


class AsyncMax:
    """Asks for the largest value over all ranks, element by element, and has the answer a little later.

    On a GPU neither the host nor the running kernels wait in between: the values are gathered on a stream of their own,
    and the answer is waited for only as far as what was queued before the question.

    Args:
        trainer: Whose ranks, and whose device.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.device, self.ranks = trainer.strategy.root_device, trainer.world_size
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._ready: torch.cuda.Event | None = None
        self._shared: Tensor | None = None

    def start(self, values: Sequence[float] | Tensor) -> None:
        """Says what this rank knows: so many numbers, the same count on every rank and in every question."""
        said = torch.as_tensor(values, dtype=torch.float32)
        if self._stream is None:
            self._shared = said.to(self.device)  # already there, but for one that was given as numbers
            if self.ranks > 1:
                torch.distributed.all_reduce(self._shared, torch.distributed.ReduceOp.MAX)
            return
        said = said.pin_memory().to(self.device, non_blocking=True) if said.device.type == "cpu" else said.clone()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            said.record_stream(self._stream)
            if self.ranks > 1:
                torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
            self._shared = torch.empty(said.shape, pin_memory=True).copy_(said, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(self._stream)

    def wait(self) -> list[float]:
        """What the ranks know between them of what was asked last."""
        assert self._shared is not None, "nothing was asked"
        if self._ready is not None:
            # An event, not the stream: torch.cuda.set_sync_debug_mode, which finds accidental waits, objects to those
            # for streams, as to those for the device.
            self._ready.synchronize()
        return self._shared.tolist()


PARENT_VARIABLE = "RESNET18_LAUNCHER"  # by which a rank knows that it was started by another, and by which
POLL_S = 1.0
GRACE_S = 20.0  # for a rank to leave its collective by itself


class Launcher(_SubprocessScriptLauncher):
    """Starts a machine's other ranks as Lightning's own does; here every rank watches those that it depends on.

    Args:
        launcher: Lightning's, which it takes the place of.
        command: What runs: ``fit`` or another.
        last: Where a run that fits is saved.
    """

    def __init__(self, launcher: _SubprocessScriptLauncher, command: str, last: LastCheckpoint | None) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.command, self.last = command, last
        self._own = PARENT_VARIABLE in os.environ and "LOCAL_RANK" in os.environ
        if self._own:
            self._parent = int(os.environ[PARENT_VARIABLE])
        else:
            self._parent = os.getppid() if torch.distributed.is_torchelastic_launched() else None
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
                    print(f"lightning {self.command}: {rank_prefix()}{self._go_on(lost)}", file=sys.stderr, flush=True)
                for process in self.procs:
                    process.kill()
                os._exit(1)  # the main thread waits in a collective, maybe for ever

    def _lost(self) -> str | None:
        """Which rank is gone, and how, as far as this process can see."""
        if self._parent is not None and os.getppid() != self._parent:
            return "rank 0 is gone" if self._own else "torchrun is gone"
        first = self.cluster_environment.node_rank() * self.num_processes
        ended = {rank: process.poll() or 0 for rank, process in enumerate(self.procs, start=first + 1)}
        for rank, status in sorted(ended.items(), key=lambda pair: pair[1]):  # first who was killed, then who followed
            if status:
                how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
                return f"rank {rank} is gone ({how})"
        return None

    def is_reporter(self) -> bool:
        """Whether it is for this process to tell: for a machine's first, or its second if the first may be gone."""
        local_rank = self.cluster_environment.local_rank()
        return local_rank == 0 or (local_rank == 1 and not (self._own and self._lost() is None))

    def _go_on(self, lost: str) -> str:
        if self.last is None or self.last.dirpath is None:
            return lost
        if not (self.last.dirpath / LAST).exists():
            return f"{lost}; nothing was saved"
        return f"{lost}; resume with: lightning fit --ckpt_path {shlex.quote(str(self.last.dirpath.parent))}"

    def end(self, error: RuntimeError) -> NoReturn:
        """Ends the program after a collective failed.

        Raises:
            RunError: With what it means; from the rank that is to tell. The others say nothing.
        """
        if not torch.distributed.is_initialized():
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RunError(f"the ranks did not meet at {place}: {str(error).splitlines()[0][:200]}") from error
        limit = time.monotonic() + 2.0
        while (lost := self._lost()) is None and time.monotonic() < limit:  # its sockets close before it is gone
            time.sleep(0.05)
        if not self.is_reporter():
            sys.exit(1)
        raise RunError(self._go_on(lost or "another rank is gone")) from error


def prepare_ranks(trainer: Trainer, command: str, last: LastCheckpoint | None, sync_batchnorm: bool) -> None:
    """Compares what was started with what is configured, and lets the ranks watch each other.

    Args:
        trainer: Fresh.
        command: What it is to do: ``fit`` or another.
        last: Where a run that fits is saved.
        sync_batchnorm: Whether norm layers are to share their statistics.

    Raises:
        UsageError: Where torchrun or SLURM started other processes than the Trainer has devices, or the norm layers
            can't share anything.
    """
    environment = trainer._accelerator_connector.cluster_environment
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
    launcher = trainer.strategy.launcher
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
    """Where a collective that failed is told in a sentence.

    Raises:
        RunError: That sentence, from one rank of a machine.
    """
    try:
        yield
        if torch.distributed.is_initialized():  # or NCCL complains when the program ends
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        launcher = trainer.strategy.launcher
        # Gloo's are plain RuntimeErrors that open with a place in its source.
        of_collective = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if not isinstance(launcher, Launcher) or not of_collective:
            raise
        launcher.end(error)


def rank_prefix() -> str:
    """What a rank's words begin with; nothing for rank 0's."""
    rank = getattr(rank_zero.rank_zero_only, "rank", 0)  # set by Lightning, on the function
    return f"rank {rank}: " if rank else ""
