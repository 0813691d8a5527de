"""The order of an epoch's images: a function of (seed, epoch), split over the ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from resnet18.engine.seeding import generator

_ORDER = 1  # keeps these draws apart from those of the augmentation


class Position(NamedTuple):
    """Where a pass begins: the epoch, and how many of its batches are already done."""

    epoch: int
    batch: int


class Shard(NamedTuple):
    """This process's share of the images, and the device of its batches."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world_size: int = 1


ALONE = Shard()


class Order:
    """Shuffled full batches of the numbers 0 to ``count`` - 1; ValueError if they do not fill one on every rank."""

    # Every rank draws the same permutation, takes its own share of it, and has the same number of full batches. The
    # images left over, fewer than one batch over all ranks, change with the epoch.

    def __init__(self, count: int, batch_size: int, seed: int, shard: Shard = ALONE) -> None:
        self.count, self.batch_size, self.seed, self.shard = count, batch_size, seed, shard
        self.batches = count // (batch_size * shard.world_size)
        if self.batches == 0:
            many = f"a batch of {batch_size} on each of {shard.world_size} ranks"
            raise ValueError(f"batch_size is too large: {count} training images do not fill {many}")

    def epoch(self, number: int) -> Tensor:
        """This rank's images in an epoch, in order: int64 of ``batches`` · ``batch_size``, on the CPU."""
        permutation = torch.randperm(self.count, generator=generator(self.seed, _ORDER, number))
        return permutation[self.shard.rank :: self.shard.world_size][: self.batches * self.batch_size]
