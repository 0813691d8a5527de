"""Lists of labelled image files, and the sizes they are scaled to."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy
from torch import Tensor

from resnet18.data.feeds.resident import named
from resnet18.engine.inputs import Interpolation

STRIDE = 32  # pixels, of the last stage: sizes between its multiples cost as much as the next


class Names(Sequence[str]):
    """N paths in an array of bytes: counting references to a list of strings would copy its pages into each worker."""

    def __init__(self, names: Iterable[str]) -> None:
        self.encoded = numpy.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, number: Any) -> Any:
        return os.fsdecode(self.encoded[number])


@dataclass(frozen=True)
class Files:
    """A labelled set of N image files."""

    root: Path  # the directory that names start from
    names: Sequence[str]  # N paths
    labels: Tensor  # int64 N, or N targets of another kind that the source accepts

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Tensor) -> Self:
        """The files at these positions: int64, in the order wanted."""
        return type(self)(self.root, [self.names[position] for position in positions.tolist()], self.labels[positions])

    def identity(self) -> dict[str, Tensor]:
        """The parts of its fingerprint."""
        return named(self.labels, self.names)


@dataclass(frozen=True)
class Geometry:
    """The sizes that images are scaled to, in pixels."""

    train: int  # side of a training image
    evaluation: int  # side of any other image
    share: float = 1.0  # of the shorter side, for evaluation: see decode.centre
    channels: int = 3  # or 1
    first: int | None = None  # side of a training image in the first epochs; by default the same
    growth: Sequence[float] = (0.75, 0.85)  # shares of the run's epochs between which it grows to `train`
    interpolation: Interpolation = "bilinear"  # for evaluation

    def train_size(self, epoch: int, epochs: int) -> int:
        """Side of a training image in an epoch, growing in steps of 32 pixels as in FFCV's ImageNet recipe."""
        if self.first is None:
            return self.train
        begin, end = (share * epochs for share in self.growth)
        grown = float(numpy.interp(epoch, [begin, end], [self.first, self.train]))
        if begin < epoch < end:
            grown = min(max(round(grown / STRIDE) * STRIDE, self.first), self.train)
        return round(grown)
