"""``images_per_s``: training images a second over all ranks, between log points, validation left out.

Lightning's ThroughputMonitor costs about 0.4 ms of host time a step; this adds one number at each log point. There the
device is waited for before the clock is read, once, which the loggers would do a moment later anyway.
"""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from resnet18.position import at_log_point


class Throughput(Callback):
    def __init__(self) -> None:
        self.images_per_s: float | None = None
        self._images = 0
        self._since = 0.0

    def _restart(self) -> None:
        self._images, self._since = 0, time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()  # a run resumed in mid-epoch has no epoch start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[1])
        if at_log_point(trainer, trainer.global_step) and self._images:
            if pl_module.device.type != "cpu":
                torch.accelerator.synchronize(pl_module.device)
            self.images_per_s = self._images * trainer.world_size / (time.perf_counter() - self._since)
            pl_module.log("images_per_s", self.images_per_s, batch_size=len(batch[1]))
            self._restart()
