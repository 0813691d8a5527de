"""Signals end a run at the next step's end, with a checkpoint and the shell's exit status (143 for SIGTERM).

Lightning alone saves nothing on SIGTERM and exits 0; on several ranks it broadcasts from inside the signal handler,
which can hang. Here the handler sets a flag, on which the ranks agree once a step. A validation is broken off, and run
again from its start when the run is resumed.

SLURM's requeue signal (SIGUSR1 by default) does the same and requeues the job. Lightning would save inside the handler,
in the middle of a step, to a file that it then prefers to every later checkpoint.
"""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from resnet18.engine import loops
from resnet18.engine.checkpointing import LastCheckpoint, end_validation
from resnet18.engine.ranks import AsyncMax, cluster_environment


class Interrupted(BaseException):
    """A signal ended the run; not an Exception, so that no handler on the way takes it for a failure."""

    def __init__(self, signum: int, saved: str | None, requeue: bool = False) -> None:
        super().__init__(signum, saved, requeue)
        self.signum, self.saved, self.requeue = signum, saved, requeue  # saved: the checkpoint to resume from


class GracefulStop(Callback):
    """Ends the run at the next step's end, after saving it if ``last`` is given."""

    def __init__(self, last: LastCheckpoint | None = None) -> None:
        self.last = last
        self.received = 0  # the signal that this rank was sent
        self.agreed = 0  # the signal that any rank was sent; set in every step by FiniteLoss
        self._previous: dict[int, Any] = {}  # handlers
        self._requeue = 0
        self._shared: AsyncMax | None = None
        self._shared_batches = 0

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received:  # the second signal ends the run at once, without a checkpoint
            raise Interrupted(signum, None)
        self.received = signum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.received = self.agreed = 0
        environment = cluster_environment(trainer)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            self._requeue = int(environment.requeue_signal)
        if trainer.world_size > 1:
            loops.skip_sigterm_broadcast(trainer)
            self._shared = AsyncMax(trainer)
        # Lightning has installed its own handlers just before.
        if threading.current_thread() is threading.main_thread():
            for signum in {int(signal.SIGTERM), int(signal.SIGINT), self._requeue or int(signal.SIGTERM)}:
                self._previous[signum] = signal.signal(signum, self._handle)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        received = self.received if self._shared is None else self.agreed
        if received and loops.can_resume_here(trainer):
            self._stop(trainer, received)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        received = self.received if self._shared is None else self.agreed
        if received and trainer.num_training_batches == 1:  # its only step is also its last
            self._stop(trainer, received)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shared is not None:  # some ranks may have a batch more than others
            count = torch.tensor(int(sum(trainer.num_val_batches)), device=trainer.strategy.root_device)
            torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MIN)
            self._shared_batches = int(count)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        received = self.received
        if self._shared is not None:
            # The answer to the last batch's question is here by now.
            received = int(self._shared.wait()[0]) if 0 < batch_idx < self._shared_batches else 0
            if batch_idx < self._shared_batches - 1:
                self._shared.start([self.received])
        if received:
            counters = loops.loop_state(trainer)
            loops.rewind_validation(counters)
            end_validation(trainer)
            self._stop(trainer, received, counters)

    def _stop(self, trainer: Trainer, received: int, counters: dict[str, Any] | None = None) -> None:
        saved = str(self.last.save(trainer, counters)) if self.last is not None else None
        raise Interrupted(received, saved, requeue=received == self._requeue)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    on_exception = teardown


class SavingStop(GracefulStop, Checkpoint):
    """A Checkpoint, which Lightning calls last: the other callbacks have seen the step that is saved."""


class NotebookStop(GracefulStop):
    """Ends ``Trainer.fit`` after the step in which the kernel is interrupted, as if it were done; Lightning would exit.

    It validates once more, so that the Trainer's own checkpoint is of that step. A second interrupt ends it at once.
    """

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.received and not trainer.should_stop:
            trainer.should_stop = True
            where = f"step {trainer.global_step:,}, in epoch {trainer.current_epoch + 1}"
            print(f"interrupted: the training ends after {where}; the model keeps its weights", flush=True)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the validation is finished."""

    on_train_epoch_end = on_validation_batch_end


def notebook_stop(trainer: Trainer) -> list[Callback]:
    """What a Trainer used in IPython lacks; nothing for one that stops by itself, and on several ranks."""
    alone = trainer.world_size == 1 and not any(isinstance(one, GracefulStop) for one in loops.callbacks_of(trainer))
    return [NotebookStop()] if ipython() is not None and alone else []


def ipython() -> Any:
    """The shell of IPython that this process is; None elsewhere. That of a notebook has a ``kernel``."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


@rank_zero_only
def requeue() -> None:
    """Has SLURM queue this job again, under its old number, and prints the outcome."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        failure = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        failure = f"scontrol: {error.strerror}"
    print(f"job {job} is queued again" if not failure else f"job {job} is not queued again: {failure}", file=sys.stderr)
