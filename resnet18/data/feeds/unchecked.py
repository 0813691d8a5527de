"""A loader over image files that nobody has looked at before: one that can't be read costs its own row, not the run."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from resnet18.data.feeds.decode import UnreadableImage, centre, decode, scaled_side
from resnet18.data.feeds.files import Files
from resnet18.data.feeds.order import ALONE, Shard
from resnet18.data.feeds.streamed import StreamedLoader
from resnet18.engine.inputs import Interpolation


class UncheckedDecoding(Dataset[Any]):
    """Turns positions into (uint8 B×C×H×W in channels-last memory, the reason for each that can't be read)."""

    def __init__(self, files: Files, size: Sequence[int], share: float, interpolation: Interpolation) -> None:
        self.root, self.names, self.interpolation = files.root, files.names, interpolation
        (self.channels, *self.size), self.share = size, share
        self.enough = max(scaled_side(side, share) for side in self.size)

    def __getitems__(self, positions: Sequence[int]) -> tuple[Tensor, dict[int, str]]:
        images = torch.zeros(len(positions), *self.size, self.channels, dtype=torch.uint8)  # B×H×W×C
        reasons: dict[int, str] = {}
        for image, position in zip(images, positions, strict=True):
            try:
                pixels = decode(self.root / self.names[position], self.channels, self.enough)  # C×h×w
                image.copy_(centre(pixels, self.size, self.share, self.interpolation).permute(1, 2, 0))
            except UnreadableImage as error:
                reasons[position] = str(error)
            except Exception as error:  # whatever a decoder has not foreseen: the other images are not at fault
                reasons[position] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return images.permute(0, 3, 1, 2), reasons


class UncheckedLoader(StreamedLoader):
    """Every image exactly once over all ranks, in order: (uint8 B×C×H×W, B zeros for labels, int64 B positions).

    An image that can't be read is black, and its reason is in ``unreadable`` once its batch has been yielded, until it
    is taken out: a network sees batches of tensors and nothing else.
    """

    def __init__(
        self,
        files: Files,
        batch_size: int,
        size: Sequence[int],  # channels, height, width
        share: float = 1.0,
        interpolation: Interpolation = "bilinear",
        *,
        num_workers: int = 0,
        shard: Shard = ALONE,
    ) -> None:
        own = range(shard.rank, len(files), shard.world_size)
        self.positions = [own[first : first + batch_size] for first in range(0, len(own), batch_size)]
        self.unreadable: dict[int, str] = {}  # by position
        super().__init__(UncheckedDecoding(files, size, share, interpolation), self.positions, num_workers, shard)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for (images, reasons), positions in zip(super().__iter__(), self.positions, strict=True):
            self.unreadable |= reasons
            yield images, torch.zeros(len(positions), dtype=torch.int64), torch.tensor(positions)
