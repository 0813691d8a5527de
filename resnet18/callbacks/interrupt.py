"""SIGTERM and SIGINT end a run at the next step's end, with a checkpoint and the shell's exit status (143, 130).

Lightning alone saves nothing on SIGTERM and exits 0; on several ranks it broadcasts from inside the signal handler,
which can hang. Here the handler sets a flag, and the ranks agree on it where they meet anyway.
"""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from resnet18.callbacks.checkpoints import LastCheckpoint
from resnet18.position import at_last_batch

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal ended the run; not an Exception, so that nothing on the way takes it for a failure.

    Args:
        signum: The signal.
        saved: The checkpoint to go on from, if one could be written.
    """

    def __init__(self, signum: int, saved: str | None) -> None:
        super().__init__(signum, saved)
        self.signum, self.saved = signum, saved


class GracefulStop(Callback):
    """Ends the run at the next step's end; where checkpoints are off."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._received is not None:  # asked twice: at once, and without a checkpoint
            raise Interrupted(signum, None)
        self._received = signum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has installed its own handlers just before.
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                self._previous[signum] = signal.signal(signum, self._handle)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last batch of an epoch waits for its validation, as LastCheckpoint does.
        if not at_last_batch(trainer):
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        received = self._received
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(received is not None, all=False)
            received = (received or signal.SIGTERM) if asked else None
        if received is not None:
            raise Interrupted(received, self._save(trainer))

    def _save(self, trainer: Trainer) -> str | None:
        return None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()


class SavingStop(GracefulStop, Checkpoint):
    """Saves before it ends the run. A Checkpoint, for Lightning calls these last: the others have then seen the step.

    Args:
        last: What writes the checkpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        super().__init__()
        self.last = last

    def _save(self, trainer: Trainer) -> str | None:
        return str(self.last.save(trainer))
