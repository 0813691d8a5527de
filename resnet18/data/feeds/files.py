"""Lists of labelled image files, and the sizes they are brought to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy
from torch import Tensor

from resnet18.data.feeds.resident import named

GROWTH = 32  # pixels, the stride of the last stage: sizes between its multiples cost as much as the next


@dataclass(frozen=True)
class Files:
    """A labelled set of N image files."""

    root: Path
    """The directory that ``names`` start from."""
    names: Sequence[str]
    """N paths in it."""
    labels: Tensor
    """int64, N."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Tensor) -> Self:
        """The files at these positions: int64, in the order wanted."""
        return type(self)(self.root, [self.names[position] for position in positions.tolist()], self.labels[positions])

    def identity(self) -> dict[str, Tensor]:
        """What tells this set from another, for its fingerprint."""
        return named(self.labels, self.names)


@dataclass(frozen=True)
class Geometry:
    """The sizes that images are brought to, in pixels.

    Args:
        train: Side of a training image.
        evaluation: Side of any other image.
        share: Of the shorter side, for what is evaluated: see :func:`~resnet18.data.feeds.decode.centre_square`.
        channels: 3 or 1.
        first: Side of a training image in the first epochs; by default the same.
        growth: Between which shares of the run's epochs the side grows from ``first`` to ``train``.
    """

    train: int
    evaluation: int
    share: float = 1.0
    channels: int = 3
    first: int | None = None
    growth: Sequence[float] = (0.75, 0.85)

    def train_size(self, epoch: int, epochs: int) -> int:
        """Side of a training image in an epoch, growing in steps of 32 pixels as in FFCV's ImageNet recipe."""
        if self.first is None:
            return self.train
        begin, end = (share * epochs for share in self.growth)
        grown = float(numpy.interp(epoch, [begin, end], [self.first, self.train]))
        if begin < epoch < end:
            grown = min(max(round(grown / GROWTH) * GROWTH, self.first), self.train)
        return round(grown)
