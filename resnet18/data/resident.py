"""A loader over a data set that lives, whole, as one uint8 tensor on the training device.

No workers, no PIL, no collation: a batch is one gather, on CPU and GPU alike. The idea is that of the fast CIFAR-10
loaders (Page, 2018; Jordan's cifar10-loader); here it is also sharded over ranks and can begin anywhere in a run.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from resnet18.data.augment import gather_augmented
from resnet18.randomness import generator

_ORDER, _AUGMENT = 1, 2  # keep the two streams of draws apart


class Pixels(NamedTuple):
    """A labelled set of images: uint8 N×H×W×C, and int64 N."""

    images: Tensor
    labels: Tensor


class Position(NamedTuple):
    """Where in a run to begin: the epoch, and how many of its batches are already done."""

    epoch: int
    batch: int


class TrainLoader:
    """Shuffled, augmented training batches: (uint8 B×C×H×W in channels-last memory, int64 B).

    The order is a function of (seed, epoch): every rank draws the same permutation and takes its own share of it. All
    ranks see the same number of full batches; the images left over, fewer than one batch over all ranks, are others in
    every epoch. The augmentation is a function of (seed, step, rank).

    Args:
        pixels: The images, moved to ``device`` once.
        batch_size: Images a batch, on each rank.
        seed: Seed of the order and of the augmentation.
        translate: See :func:`~resnet18.data.augment.gather_augmented`.
        flip: Likewise.
        device: Where the images live and the batches come from.
        rank: This process's number, of ``world_size``.
        world_size: How many processes share the images.
        position: Asked at the start of every pass. Without it the passes count themselves, from epoch 0.

    Raises:
        ValueError: Where the images do not fill one batch on every rank.
    """

    def __init__(
        self,
        pixels: Pixels,
        batch_size: int,
        seed: int,
        *,
        translate: int = 0,
        flip: bool = False,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], Position] | None = None,
    ) -> None:
        self.images, self.labels = pixels.images.to(device), pixels.labels.to(device)
        self.batch_size, self.seed, self.translate, self.flip = batch_size, seed, translate, flip
        self.rank, self.world_size = rank, world_size
        self.batches = len(self.labels) // (batch_size * world_size)
        if self.batches == 0:
            raise ValueError(
                f"{len(self.labels)} training images do not fill a batch of {batch_size} on each of {world_size} ranks"
            )
        self._passes = 0
        self._position = position or (lambda: Position(self._passes, 0))

    def __len__(self) -> int:
        return self.batches

    def order(self, epoch: int) -> Tensor:
        """This rank's images in the epoch, in order: int64, ``len(self)`` · ``batch_size``, on the CPU."""
        permutation = torch.randperm(len(self.labels), generator=generator(self.seed, _ORDER, epoch))
        return permutation[self.rank :: self.world_size][: self.batches * self.batch_size]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first = self._position()
        self._passes = epoch + 1
        device = self.images.device
        batches = self.order(epoch).to(device).split(self.batch_size)
        for batch in range(first, self.batches):
            index = batches[batch]
            draws = None
            if self.translate or self.flip:
                draws = generator(self.seed, _AUGMENT, epoch * self.batches + batch, self.rank, device=device)
            images = gather_augmented(self.images, index, translate=self.translate, flip=self.flip, generator=draws)
            yield images.permute(0, 3, 1, 2), self.labels[index]


class EvaluationLoader:
    """Every image exactly once over all ranks, in order: (uint8 B×C×H×W, int64 B labels, int64 B positions).

    Ranks may hold one image more or fewer than others: padding to equal shares would count images twice.
    """

    def __init__(
        self,
        pixels: Pixels,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.positions = torch.arange(len(pixels.labels))[rank::world_size]
        self.images, self.labels = pixels.images[self.positions].to(device), pixels.labels[self.positions].to(device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for start in range(0, len(self.labels), self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield self.images[batch].permute(0, 3, 1, 2), self.labels[batch], self.positions[batch]
