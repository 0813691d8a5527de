"""Logs ``train/loss``, ``lr`` and ``images_per_s`` at every log point.

``train/loss`` is the mean since the last log point; ``images_per_s`` counts all ranks and leaves validation out. It
waits for the device at log points only. ``LightningModule.log`` and Lightning's ThroughputMonitor take several times
the host time; ``benchmarks/trainer_overhead.py`` measures it.
"""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from resnet18.engine.loops import at_log_point
from resnet18.metrics import Mode

TRAINING_METRICS: dict[str, Mode | None] = {"train/loss": "min", "lr": None, "images_per_s": None}


class TrainingLog(Callback):
    """Needs batches whose first part has an entry for each image, such as (images, labels)."""

    def __init__(self) -> None:
        self._loss: Tensor | float = 0.0  # the sum over the batches since the last log point, on the device
        self._batches = self._images = 0
        self._lr: Any = 0.0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._since = 0, time.perf_counter()

    on_train_start = on_train_epoch_start  # a run resumed in mid-epoch has no epoch start
    on_validation_end = on_train_epoch_start  # its time does not count

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # by the batch's end the next step's is set

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss = self._loss + outputs["loss"]
        self._batches += 1
        self._images += len(batch[0])
        if not at_log_point(trainer, trainer.global_step):
            return
        # Lightning divides each loss by the batches that its gradient is accumulated over.
        loss = self._loss * trainer.accumulate_grad_batches / self._batches
        if trainer.loggers:
            loss = float(loss)  # waits for the device
        rate = self._images * trainer.world_size / (time.perf_counter() - self._since)
        metrics = dict(zip(TRAINING_METRICS, (loss, float(self._lr), rate), strict=True))
        trainer.callback_metrics.update({name: torch.as_tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **metrics}, trainer.global_step - 1)  # steps from 0
        self._loss, self._batches = 0.0, 0
        self._images, self._since = 0, time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"loss": float(self._loss), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loss, self._batches = state_dict["loss"], state_dict["batches"]
