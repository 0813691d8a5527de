"""The two checkpoints of a run: ``best.ckpt`` by a validation metric, and ``last.ckpt`` to resume from.

Two callbacks, because one ModelCheckpoint that also saves on exceptions overwrites its best file with the state of the
crash.
"""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ModelPruning, WeightAveraging
from pydantic import Field
from torch import Tensor

from resnet18.engine import loops
from resnet18.metrics import Mode
from resnet18.storage.records import BEST, LAST

CLOCK_EVERY = 32  # steps, on several ranks


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the epoch that validated best, without the optimizer's state.

    It logs that epoch's ``val/`` metrics as ``best/``, and calls ``on_new_best(trainer, module)`` of callbacks that
    have it.

    Args:
        monitor: A metric of the validation.
        mode: Whether more of it is better (``max``) or less (``min``); by default as the metric has it.
    """

    improved = False  # whether the last validation was the best so far

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
            save_on_train_epoch_end=False,  # but right after the validation: callbacks may change the weights later
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.follows:
            mode: str | None = getattr(pl_module, "metric_modes", {}).get(self.monitor)
            if mode is None:
                raise ValueError(f"mode: {self.monitor} does not say whether more of it is better; give max or min")
            self.mode, self.kth_value = mode, torch.tensor(math.inf if mode == "min" else -math.inf)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score of a run that was moved.
        best = {str(Path(self.dirpath or "", BEST)): score for score in state_dict["best_k_models"].values()}
        path = next(iter(best), "")
        moved = {"dirpath": self.dirpath, "best_k_models": best, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict({**state_dict, **moved})
        self.current_score = state_dict["current_score"]

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        # Of epochs that validate equally well it keeps the last, whose learning rate was the lowest.
        equal = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        self.improved = equal or super().check_monitor_top_k(trainer, current)
        return self.improved

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.improved = False
        super().on_validation_end(trainer, pl_module)
        if not self.improved:
            return
        epoch = trainer.current_epoch
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        best = {f"best/{name.removeprefix('val/')}": value for name, value in scores.items()}
        for logger in trainer.loggers:  # in a row of its own: W&B and metrics.csv keep the best apart from the last
            logger.log_metrics({"epoch": epoch, **best, "best/epoch": epoch}, trainer.global_step - 1)  # steps from 0
        for callback in loops.callbacks_of(trainer):
            if hook := getattr(callback, "on_new_best", None):
                hook(trainer, pl_module)


class LastCheckpoint(Checkpoint):
    """Keeps everything that a run needs to resume, at intervals and at its end; on several ranks all take part.

    Args:
        every_n_steps: Save every this many optimizer steps; off by default.
        every_n_minutes: Save when this many minutes have passed since the last time; null for never.
    """

    dirpath: Path | None = None  # set by the program, which knows the run's directory
    _counters: dict[str, Any] | None = None
    _saved_at, _saved_step, _due = 0.0, -1, False

    def __init__(
        self,
        every_n_steps: Annotated[int, Field(ge=1)] | None = None,
        every_n_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 5.0,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.interval = 60 * every_n_minutes if every_n_minutes else None  # seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(self.dirpath)  # only rank 0 is sure of the run's name

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counters, self._saved_at, self._saved_step, self._due = None, time.monotonic(), -1, False
        loops.start_epoch(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not loops.is_between_steps(trainer):
            return
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0:
            self._due = True
        if self.interval and step % (CLOCK_EVERY if trainer.world_size > 1 else 1) == 0:
            # Clocks differ between ranks, so rank 0 decides for all.
            elapsed = time.monotonic() - self._saved_at > self.interval
            self._due |= bool(trainer.strategy.broadcast(elapsed)) if trainer.world_size > 1 else elapsed
        if loops.ends_before_its_epoch(trainer):
            # Lightning will count the epoch as done, but a resumed run has to train the rest of it. A Trainer that
            # should stop also validates once more, which must not be in the checkpoint.
            if trainer.should_stop:
                self.save(trainer)
            else:
                self._counters = loops.loop_state(trainer)
        elif self._due and loops.can_resume_here(trainer):  # else it waits for the next step
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loops.step_plateaus_after_resuming(trainer)
        if self._due and trainer.num_training_batches == 1:  # its only step is also its last
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self.save(trainer, self._counters)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._counters is not None:
            checkpoint["loops"]["fit_loop"] = self._counters

    def save(self, trainer: Trainer, counters: dict[str, Any] | None = None) -> Path:
        """Writes the checkpoint, on all ranks together; ``counters`` replace the Trainer's in mid-step or mid-epoch."""
        assert self.dirpath is not None
        for logger in trainer.loggers:
            logger.save()
        self._counters = counters
        trainer.save_checkpoint(self.dirpath / LAST, weights_only=False)
        self._counters, self._saved_at, self._saved_step, self._due = None, time.monotonic(), trainer.global_step, False
        return self.dirpath / LAST


def complete_weights(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Puts averaged or pruned weights into a checkpoint of weights alone."""
    # Lightning does not call callbacks for these: it would save raw weights beside the average's score.
    if "optimizer_states" in checkpoint:
        return
    for callback in loops.callbacks_of(trainer):
        if isinstance(callback, WeightAveraging | ModelPruning):
            callback.on_save_checkpoint(trainer, module, checkpoint)
    for name in ("current_model_state", "averaging_state"):  # to resume from
        checkpoint.pop(name, None)


def end_validation(trainer: Trainer) -> None:
    """Puts the raw weights back while Lightning's averages are being validated, for a checkpoint to resume from."""
    for callback in loops.callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            callback.on_validation_epoch_end(trainer, trainer.lightning_module)
