"""The two checkpoints of a run: ``best.ckpt`` by a validation metric, and ``last.ckpt`` to go on from.

Two callbacks, because one ModelCheckpoint that also saves on exceptions overwrites its best file with the state of the
crash.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ModelPruning, WeightAveraging
from torch import Tensor

from resnet18.engine.loops import (
    at_last_batch,
    callbacks_of,
    ends_before_its_epoch,
    is_between_steps,
    loop_state,
    start_epoch,
    step_plateaus_after_resuming,
    validation_follows,
)
from resnet18.metrics import Mode
from resnet18.storage.checkpoints import BEST, LAST

ASKED_EVERY = 32  # steps, on several ranks


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the epoch that validated best, without the optimizer's state.

    Of epochs that validate equally well, as happens with few validation images, it keeps the last: by then the learning
    rate has come down further.

    Args:
        monitor: A metric of the validation.
        mode: Whether more of it is better (``max``) or less (``min``); by default as the metric has it.

    Raises:
        ValueError: For a metric of the test images, which would choose by them; in ``setup``, where the mode is left
            out and the module's ``metric_modes`` have none for the metric.
    """

    def __init__(self, monitor: str = "val/top1", mode: Mode | None = None) -> None:
        if monitor.startswith("test/"):
            raise ValueError(f"monitor: {monitor} would choose by the test images; monitor a val/ metric")
        self.follows = mode is None
        super().__init__(
            filename=Path(BEST).stem,
            monitor=monitor,
            mode=mode or "max",
            save_weights_only=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.follows:
            mode: str | None = getattr(pl_module, "metric_modes", {}).get(self.monitor)
            if mode is None:
                raise ValueError(f"mode: {self.monitor} does not say whether more of it is better; give max or min")
            self.mode, self.kth_value = mode, torch.tensor(math.inf if mode == "min" else -math.inf)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score where the directory has another path than before: in a run that was moved.
        best = {str(Path(self.dirpath or "", BEST)): score for score in state_dict["best_k_models"].values()}
        path = next(iter(best), "")
        moved = {"dirpath": self.dirpath, "best_k_models": best, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict({**state_dict, **moved})
        self.current_score = state_dict["current_score"]

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        equal = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)


class LastCheckpoint(Checkpoint):
    """Keeps everything that a run needs to go on, at intervals and at its end; on several ranks all take part.

    Args:
        every_n_steps: Save every so many optimizer steps; off by default.
        every_n_minutes: Save when so many minutes have passed since the last time.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 5.0) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, not {every_n_steps}")
        if every_n_minutes is not None and not 0 < every_n_minutes < float("inf"):
            raise ValueError(f"every_n_minutes must be above 0, not {every_n_minutes}")
        self.every_n_steps = every_n_steps
        self.interval = 60 * every_n_minutes if every_n_minutes else None
        self.dirpath: Path | None = None  # set by whoever knows the run's directory
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._due = False
        self._loops: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(self.dirpath)  # only rank 0 is sure of the run's name

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at, self._saved_step = time.monotonic(), -1
        self._due, self._loops = False, None
        start_epoch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not is_between_steps(trainer):  # a checkpoint holds no gradients
            return
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0:
            self._due = True
        if self.interval and step % (ASKED_EVERY if trainer.world_size > 1 else 1) == 0:
            # Clocks differ between ranks, so rank 0 decides, and asking it takes a message to all of them.
            elapsed = time.monotonic() - self._saved_at > self.interval
            self._due |= bool(trainer.strategy.broadcast(elapsed)) if trainer.world_size > 1 else elapsed
        if ends_before_its_epoch(trainer):
            # Lightning will count the epoch as done, and a run that goes on has to train the rest of it. Asked to stop
            # it also validates once more, of which the run that goes on is to know nothing.
            if trainer.should_stop:
                self.save(trainer)
            else:
                self._loops = loop_state(trainer)
        elif self._due and not at_last_batch(trainer) and not validation_follows(trainer):
            # Else it waits for the next step: Lightning would resume behind the validation, without it, and at an
            # epoch's end what watches a metric (a ReduceLROnPlateau) is still to come.
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step_plateaus_after_resuming(trainer)
        if self._due and trainer.num_training_batches == 1:  # no step of such an epoch is not its last
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self.save(trainer, self._loops)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._loops is not None:
            checkpoint["loops"]["fit_loop"] = self._loops

    def save(self, trainer: Trainer, loops: dict[str, Any] | None = None) -> Path:
        """Writes the checkpoint, on all ranks together.

        Args:
            trainer: Whose run it is.
            loops: Counters to go on from, where the Trainer's own stand in the middle of something.

        Raises:
            RunError: Where it can't be written; the one before is untouched.
        """
        assert self.dirpath is not None
        self._loops = loops
        for logger in trainer.loggers:
            logger.save()
        path = self.dirpath / LAST
        trainer.save_checkpoint(path, weights_only=False)
        self._loops = None
        self._saved_at, self._saved_step, self._due = time.monotonic(), trainer.global_step, False
        return path


def complete_weights(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Puts what Lightning's callbacks make of the weights into a checkpoint of weights alone, too.

    Lightning does not tell callbacks of such a checkpoint: it would hold raw weights beside the average's score.
    """
    if "optimizer_states" in checkpoint:
        return
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging | ModelPruning):
            callback.on_save_checkpoint(trainer, module, checkpoint)
    for name in ("current_model_state", "averaging_state"):  # to resume from
        checkpoint.pop(name, None)


def end_validation(trainer: Trainer) -> None:
    """Puts the raw weights back where Lightning's averages are being validated, for a checkpoint to resume from."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            callback.on_validation_epoch_end(trainer, trainer.lightning_module)
