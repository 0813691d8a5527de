"""Seeds torch's global generators anew at every step, from (seed, step, rank).

What draws from them, dropout say, then depends on where in the run it is and on nothing before: a resumed run draws
what the unbroken one drew, with no generator state in any checkpoint.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from resnet18.position import batches_done
from resnet18.randomness import mix

_STEP = 3  # another stream than those of the loaders


class StepSeeding(Callback):
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed = mix(self.seed, _STEP, batches_done(trainer), trainer.global_rank)
        # Not torch.manual_seed: before CUDA is first used that formats a stack trace at every call.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
