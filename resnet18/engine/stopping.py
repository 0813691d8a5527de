"""SIGTERM and SIGINT end a run at the next step's end, with a checkpoint and the shell's exit status (143, 130).

Lightning alone saves nothing on SIGTERM and exits 0; on several ranks it broadcasts from inside the signal handler,
which can hang. Here the handler sets a flag, and the ranks agree on it once a step. A validation is broken off, and run
again from its start when the run goes on.

Under SLURM the signal that asks for a requeue (SIGUSR1, if not told otherwise) does the same, and then has the job
requeued. Lightning saves inside that signal's handler, in the middle of a step, and into a file that ever after beats
the one that a resume names.
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

from resnet18.engine.checkpointing import LastCheckpoint, end_validation
from resnet18.engine.loops import at_last_batch, before_validation, is_between_steps, loop_state, validation_follows
from resnet18.engine.ranks import AsyncMax


class Interrupted(BaseException):
    """A signal ended the run; not an Exception, so that nothing on the way takes it for a failure.

    Args:
        signum: The signal.
        saved: The checkpoint to go on from, if one could be written.
        requeue: Whether the signal asks for the job to be queued again.
    """

    def __init__(self, signum: int, saved: str | None, requeue: bool = False) -> None:
        super().__init__(signum, saved, requeue)
        self.signum, self.saved, self.requeue = signum, saved, requeue


class GracefulStop(Callback):
    """Ends the run at the next step's end; where checkpoints are off.

    On several ranks it needs to be told in every step what they agree on: ``agreed``, by
    :class:`~resnet18.engine.divergence.FiniteLoss`, which has something to ask all of them too.
    """

    def __init__(self) -> None:
        self.received = 0
        """The signal that this rank was sent, if any."""
        self.agreed = 0
        """The signal that any rank was sent, as all of them know by now."""
        self._previous: dict[int, Any] = {}
        self._requeue = 0
        self._shared: AsyncMax | None = None
        self._shared_batches = 0

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received:  # asked twice: at once, and without a checkpoint
            raise Interrupted(signum, None)
        self.received = signum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.received = self.agreed = 0
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            self._requeue = int(environment.requeue_signal)
        if trainer.world_size > 1:
            # Lightning's own question, which waits for the device in every step, for a flag that is no longer set.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing
            self._shared = AsyncMax(trainer)
        # Lightning has installed its own handlers just before.
        if threading.current_thread() is threading.main_thread():
            for signum in {int(signal.SIGTERM), int(signal.SIGINT), self._requeue or int(signal.SIGTERM)}:
                self._previous[signum] = signal.signal(signum, self._handle)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        received = self.agreed if trainer.world_size > 1 else self.received
        # Not before a validation, nor at an epoch's last batch, where Lightning has things left to do; see
        # LastCheckpoint. Every rank sees the same here.
        if received and is_between_steps(trainer) and not _waits(trainer):
            self._stop(trainer, received, None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.num_training_batches == 1:  # no step of such an epoch is not its last
            self._stop(trainer, self.agreed if trainer.world_size > 1 else self.received, None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shared is not None:
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
            # What was asked a batch ago is known by now. Some ranks may have a batch more than others.
            received = int(self._shared.wait()[0]) if 0 < batch_idx < self._shared_batches else 0
            if batch_idx < self._shared_batches - 1:
                self._shared.start([self.received])
        if received:
            loops = loop_state(trainer)
            before_validation(loops)
            end_validation(trainer)
            self._stop(trainer, received, loops)

    def _stop(self, trainer: Trainer, received: int, loops: dict[str, Any] | None) -> None:
        if received:
            raise Interrupted(received, self._save(trainer, loops), requeue=received == self._requeue)

    def _save(self, trainer: Trainer, loops: dict[str, Any] | None) -> str | None:
        return None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()


def _waits(trainer: Trainer) -> bool:
    return at_last_batch(trainer) or validation_follows(trainer)


def _nothing() -> None:
    pass


class SavingStop(GracefulStop, Checkpoint):
    """Saves before it ends the run. A Checkpoint, for Lightning calls these last: the others have then seen the step.

    Args:
        last: What writes the checkpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        super().__init__()
        self.last = last

    def _save(self, trainer: Trainer, loops: dict[str, Any] | None) -> str | None:
        return str(self.last.save(trainer, loops))


@rank_zero_only
def requeue() -> None:
    """Has the job that this process is part of queued again, under its old number, and says what came of it."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        failure = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        failure = f"scontrol: {error.strerror}"
    print(f"job {job} is queued again" if not failure else f"job {job} is not queued again: {failure}", file=sys.stderr)
