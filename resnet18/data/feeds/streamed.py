"""Loaders over image files, decoded by worker processes as they are needed, in uint8 from file to device.

The augmentations are torchvision's v2 on uint8 tensors. What happens to an image is a function of (seed, epoch, its
number), and the order one of (seed, epoch): neither depends on how many workers there are, or on which of them draws.
"""

import gc
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from resnet18.data.feeds.augment import RATIO, Augmentation, cutout
from resnet18.data.feeds.decode import UnreadableImage, centre_square, decode, scaled_side
from resnet18.data.feeds.files import Files, Geometry
from resnet18.data.feeds.order import Order, Position
from resnet18.data.feeds.resident import AUGMENT
from resnet18.engine.seeding import mix
from resnet18.errors import RunError


class Draw(NamedTuple):
    """One image asked of a worker."""

    number: int
    """Its place in the list of files."""
    size: int
    """Side in pixels that it is wanted in."""
    seed: int | None
    """Of its augmentation; none for evaluation."""


class ImageDecoding(Dataset[Any]):
    """What a worker does: whole batches of draws to (uint8 B×C×S×S in channels-last memory, int64 B)."""

    def __init__(self, files: Files, geometry: Geometry, augmentation: Augmentation) -> None:
        self.root, self.labels, self.geometry, self.augmentation = files.root, files.labels, geometry, augmentation
        # One array of bytes: a list of strings would be copied into every worker, page by page, as it is counted.
        self.names = numpy.array([os.fsencode(name) for name in files.names])
        self.policy, self.erasing = _policy(augmentation), _erasing(augmentation)
        smallest = math.sqrt(augmentation.crop[0] * RATIO[0]) if augmentation.crop else 1.0
        self.enough_to_crop = math.ceil(geometry.train / smallest)  # the smallest part still has all its pixels then

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        size, channels = draws[0].size, self.geometry.channels
        images = torch.empty(len(draws), size, size, channels, dtype=torch.uint8)
        # The draws are seeded one by one; without workers they must not touch what the network draws from.
        with torch.random.fork_rng(devices=[]):
            for place, draw in zip(images, draws, strict=True):
                place.copy_(self._image(draw).permute(1, 2, 0))
        return images.permute(0, 3, 1, 2), self.labels[[draw.number for draw in draws]]

    def _image(self, draw: Draw) -> Tensor:
        path, geometry, crop = self.root / os.fsdecode(self.names[draw.number]), self.geometry, self.augmentation.crop
        plain = draw.seed is None or crop is None
        enough = scaled_side(draw.size, geometry.share) if plain else self.enough_to_crop
        try:
            image = decode(path, geometry.channels, enough, checked=True)
        except UnreadableImage as error:
            raise RunError(f"{path}: {error}; it could be read when the run began") from None
        if draw.seed is not None:
            # Not torch.manual_seed, which seeds CUDA too, and formats a stack trace where there is none.
            torch.default_generator.manual_seed(draw.seed)
        if plain:
            image = centre_square(image, draw.size, geometry.share)
        else:
            top, left, height, width = v2.RandomResizedCrop.get_params(image, list(crop), list(RATIO))
            # torchvision's resized_crop, less its way there: by channels-last memory, which the batch has too.
            part = image[None, :, top : top + height, left : left + width]
            part = part.contiguous(memory_format=torch.channels_last)
            image = interpolate(part, (draw.size, draw.size), mode="bilinear", antialias=True)[0]
        return image if draw.seed is None else self._augmented(image)

    def _augmented(self, image: Tensor) -> Tensor:
        wanted = self.augmentation
        if wanted.translate:
            image = v2.RandomCrop(image.shape[1:], padding=wanted.translate, padding_mode="reflect")(image)
        if wanted.flip and torch.rand(()) < 0.5:
            image = F.horizontal_flip(image)
        image = self.erasing(self.policy(image))
        if wanted.cutout:
            colour = torch.tensor(wanted.fill, dtype=torch.uint8)
            image = cutout(image.permute(1, 2, 0)[None], wanted.cutout, colour, None)[0].permute(2, 0, 1)
        return image


def _policy(wanted: Augmentation) -> Callable[[Tensor], Tensor]:
    fill = list(wanted.fill)
    if wanted.policy == "trivial":
        return v2.TrivialAugmentWide(fill=fill)
    if wanted.policy == "rand":
        return v2.RandAugment(magnitude=wanted.magnitude, fill=fill)
    return _unchanged


def _erasing(wanted: Augmentation) -> Callable[[Tensor], Tensor]:
    colour: Any = list(wanted.fill)  # which it is annotated not to take
    return v2.RandomErasing(wanted.erasing, value=colour) if wanted.erasing else _unchanged


def _unchanged(value: Any) -> Any:
    return value


class _TrainDraws:
    """The batches of a pass, as a ``DataLoader`` asks for them when it begins one.

    Knows nothing of the loader that owns it: in a circle of references the workers would outlive the loader until some
    later collection, which may happen in a process that is not theirs.
    """

    def __init__(self, order: Order, geometry: Geometry, position: Callable[[], Position] | None, epochs: int) -> None:
        self.order, self.geometry, self.position, self.epochs = order, geometry, position, epochs
        self.passes = 0

    def __len__(self) -> int:
        return self.order.batches

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, first = self.position() if self.position else Position(self.passes, 0)
        self.passes = epoch + 1
        size = self.geometry.train_size(epoch, self.epochs)
        for batch in self.order.epoch(epoch).split(self.order.batch_size)[first:]:
            yield [Draw(number, size, mix(self.order.seed, AUGMENT, epoch, number)) for number in batch.tolist()]


class StreamedTrainLoader:
    """Shuffled, augmented training batches: (uint8 B×C×S×S in channels-last memory, int64 B), on the CPU.

    The workers live from the first pass to the last.

    Args:
        files: What to decode; all of it readable.
        batch_size: Images a batch, on each rank.
        seed: Seed of the order and of the augmentation.
        geometry: The sizes of the images.
        augmentation: What is done to them.
        num_workers: Processes that decode; 0 for this one.
        pin_memory: Whether the batches are to go to a GPU.
        rank: This process's number, of ``world_size``.
        world_size: How many processes share the images.
        epochs: Of the whole run, for images that grow in it.
        position: Asked at the start of every pass. Without it the passes count themselves, from epoch 0.

    Raises:
        ValueError: Where the images do not fill one batch on every rank.
        RunError: While it is iterated, where a file can't be read any more.
    """

    def __init__(
        self,
        files: Files,
        batch_size: int,
        seed: int,
        geometry: Geometry,
        augmentation: Augmentation,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        epochs: int = 1,
        position: Callable[[], Position] | None = None,
    ) -> None:
        self.order = Order(len(files), batch_size, seed, rank, world_size)
        draws = _TrainDraws(self.order, geometry, position, epochs)
        self.batches = _data_loader(ImageDecoding(files, geometry, augmentation), draws, num_workers, pin_memory)

    def __len__(self) -> int:
        return self.order.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from unwrap_worker_errors(self.batches)

    def close(self) -> None:
        """Ends the workers."""
        _close(self.batches)


class StreamedEvaluationLoader:
    """Every image exactly once over all ranks, in order: (uint8 B×C×S×S, int64 B labels, int64 B positions).

    Args:
        files: What to decode; all of it readable.
        batch_size: Images a batch.
        geometry: The sizes of the images.
        num_workers: Processes that decode; 0 for this one.
        pin_memory: Whether the batches are to go to a GPU.
        rank: This process's number, of ``world_size``.
        world_size: How many processes share the images.
    """

    def __init__(
        self,
        files: Files,
        batch_size: int,
        geometry: Geometry,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.positions = torch.arange(len(files))[rank::world_size]
        self.batch_size = batch_size
        draws = [
            [Draw(number, geometry.evaluation, None) for number in batch.tolist()]
            for batch in self.positions.split(batch_size)
            if len(batch)
        ]
        self.batches = _data_loader(ImageDecoding(files, geometry, Augmentation()), draws, num_workers, pin_memory)

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for (images, labels), positions in zip(
            unwrap_worker_errors(self.batches), self.positions.split(self.batch_size), strict=False
        ):
            yield images, labels, positions

    def close(self) -> None:
        """Ends the workers."""
        _close(self.batches)


def _data_loader(dataset: ImageDecoding, draws: Any, num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=draws,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        collate_fn=_unchanged,
        worker_init_fn=_begin_work,
        generator=torch.Generator(),  # else each pass draws from the one that dropout draws from
    )


def _close(batches: DataLoader[Any]) -> None:
    # Now, and not when the loader is collected: that may be in another process, and takes 5 s a worker if it is late.
    iterator, batches._iterator = batches._iterator, None
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        iterator._shutdown_workers()


def _begin_work(worker: int) -> None:
    # What was inherited is not this process's to tidy away: the finalizer of an earlier loader waits 5 s for each of
    # its workers, which are no children of this one.
    gc.freeze()


def unwrap_worker_errors(batches: DataLoader[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except RunError as error:
        # What a worker raises arrives with the worker's traceback in its message; the last line is what was said.
        message = str(error).strip().rpartition("\n")[2]
        raise RunError(message.removeprefix(f"{RunError.__module__}.RunError: ")) from None
