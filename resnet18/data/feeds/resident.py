"""Loaders over a data set held as one uint8 tensor on the training device: a batch is one gather, without workers.

The idea is from the fast CIFAR-10 loaders (Page, 2018; Jordan's cifar10-loader); here it is also sharded over ranks
and can begin anywhere in a run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.order import ALONE, Order, Position, Shard
from resnet18.engine.seeding import generator

AUGMENT = 2  # keeps these draws apart from those of the order
_PLAIN = Augmentation()


@dataclass(frozen=True)
class ImageTensors:
    """A labelled set of N images, or a part of a larger set, which shares its memory."""

    store: Tensor  # uint8 M×H×W×C
    labels: Tensor  # int64 N, or N targets of another kind that the source accepts
    rows: Tensor | None = None  # int64 N: each image's place in the store; by default in order
    names: Sequence[str] | None = None  # N, for the tables that `predict` writes; by default their numbers

    def __len__(self) -> int:
        return len(self.store if self.rows is None else self.rows)

    @property
    def images(self) -> Tensor:
        """The images themselves: uint8, N×H×W×C."""
        return self.store if self.rows is None else self.store[self.rows]

    def take(self, positions: Tensor) -> Self:
        """The images at these positions: int64, in the order wanted."""
        rows = positions if self.rows is None else self.rows[positions.to(self.rows.device)]
        names = None if self.names is None else [self.names[position] for position in positions.tolist()]
        return type(self)(self.store, self.labels[positions.to(self.labels.device)], rows.to(self.store.device), names)

    def identity(self) -> dict[str, Tensor]:
        """The parts of its fingerprint."""
        return {"labels": self.labels} if self.names is None else named(self.labels, self.names)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        rows = self.rows if self.rows is None else self.rows.to(device)
        return type(self)(self.store.to(device), self.labels.to(device), rows, self.names)


Pixels = ImageTensors  # the earlier name


def named(labels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Labels and names, both as tensors."""
    content = "\n".join(names).encode("utf-8", "surrogateescape")
    return {"labels": labels, "names": torch.frombuffer(bytearray(content or b"\n"), dtype=torch.uint8)}


class TrainLoader:
    """Shuffled, augmented training batches: (uint8 B×C×H×W in channels-last memory, B targets)."""

    def __init__(
        self,
        pixels: ImageTensors,
        batch_size: int,
        seed: int,
        augmentation: Augmentation = _PLAIN,
        *,
        shard: Shard = ALONE,
        position: Callable[[], Position] | None = None,
    ) -> None:
        if augmentation.one_by_one:
            raise ValueError("policy and erasing are done to one image at a time, which the resident feed does not do")
        self.pixels, self.augmentation = pixels.to(shard.device), augmentation
        self._colour = torch.tensor(augmentation.fill, dtype=torch.uint8).to(shard.device)  # C
        self.order = Order(len(pixels), batch_size, seed, shard)
        self._passes = 0
        self._position = position or (lambda: Position(self._passes, 0))  # called at the start of every pass

    def __len__(self) -> int:
        return self.order.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first = self._position()
        self._passes = epoch + 1
        order, pixels = self.order, self.pixels
        # The epoch's order crosses to the device at once: a copy a batch would make the device wait for each.
        batches = order.epoch(epoch).to(pixels.store.device).split(order.batch_size)
        for batch in range(first, order.batches):
            index = batches[batch]  # B
            rows = index if pixels.rows is None else pixels.rows[index]
            draws = generator(order.seed, AUGMENT, epoch * order.batches + batch, order.shard.rank, device=rows.device)
            images = self.augmentation.gather(pixels.store, rows, self._colour, draws)  # B×H×W×C
            yield images.permute(0, 3, 1, 2), pixels.labels[index]


class EvaluationLoader:
    """Every image exactly once over all ranks, in order: (uint8 B×C×H×W, B targets, int64 B positions)."""

    def __init__(self, pixels: ImageTensors, batch_size: int, *, shard: Shard = ALONE) -> None:
        # Shares may differ by one image: padding to equal shares would count images twice.
        self.positions = torch.arange(len(pixels))[shard.rank :: shard.world_size]
        self.pixels = pixels.take(self.positions).to(shard.device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        store, labels, rows = self.pixels.store, self.pixels.labels, self.pixels.rows
        assert rows is not None
        for start in range(0, len(self.positions), self.batch_size):
            batch = slice(start, start + self.batch_size)
            images = store[rows[batch]]  # B×H×W×C
            yield images.permute(0, 3, 1, 2), labels[batch], self.positions[batch]
