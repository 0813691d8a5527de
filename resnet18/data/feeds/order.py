"""The order in which an epoch's images come: a function of (seed, epoch), shared out over the ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from resnet18.engine.seeding import generator

_ORDER = 1  # keeps these draws apart from those of the augmentation


class Position(NamedTuple):
    """Where in a run to begin: the epoch, and how many of its batches are already done."""

    epoch: int
    batch: int


class Shard(NamedTuple):
    """Where the Trainer wants the batches, and which share of them."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world_size: int = 1


class Order:
    """Shuffled full batches.

    Every rank draws the same permutation and takes its own share of it. All ranks have the same number of full batches;
    the images left over, fewer than one batch over all ranks, are others in every epoch.

    Args:
        count: Number of images.
        batch_size: Images a batch, on each rank.
        seed: Other seeds give other orders.
        rank: This process's number, of ``world_size``.
        world_size: How many processes share the images.

    Raises:
        ValueError: Where the images do not fill one batch on every rank.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.batches = count // (batch_size * world_size)
        if self.batches == 0:
            raise ValueError(
                f"{count} training images do not fill a batch of {batch_size} on each of {world_size} ranks"
            )

    def epoch(self, number: int) -> Tensor:
        """This rank's images in an epoch, in order: int64, ``batches`` · ``batch_size``, on the CPU."""
        permutation = torch.randperm(self.count, generator=generator(self.seed, _ORDER, number))
        return permutation[self.rank :: self.world_size][: self.batches * self.batch_size]
