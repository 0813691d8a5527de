"""Randomness without state: every draw is a function of where in the run it happens.

The order of an epoch comes from (seed, epoch) and the augmentation of a step from (seed, step, rank), each through a
generator of its own, so nothing needs saving and a resumed run draws the same numbers as an unbroken one. The idea
is that of counter-based generators: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from resnet18.engine.loops import batches_done

MASK = (1 << 64) - 1
STEP = 3  # a stream apart from those of the loaders


def mix(*keys: int) -> int:
    """One 63-bit seed from whole numbers; near keys give unrelated seeds (splitmix64, Steele et al., OOPSLA 2014)."""
    state = 0
    for key in keys:
        state = (state ^ (key & MASK)) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state >> 1


def generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator whose draws depend on the keys alone."""
    return torch.Generator(device).manual_seed(mix(*keys))


class StepSeeding(Callback):
    """Seeds torch's own generators, from which dropout draws, before every batch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed = mix(self.seed, STEP, batches_done(trainer), trainer.global_rank)
        # Not torch.manual_seed: before CUDA is first used that formats a stack trace at every call.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
