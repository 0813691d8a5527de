"""Loaders over image files, decoded by worker processes as they are needed, in uint8 from file to device.

The augmentations are torchvision's v2 on uint8 tensors. An image's augmentation is a function of (seed, epoch, its
number), and the order of (seed, epoch): neither depends on the workers.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from resnet18.data.feeds.augment import RATIO, Augmentation, cutout
from resnet18.data.feeds.decode import UnreadableImage, centre, decode, scaled_side
from resnet18.data.feeds.files import Files, Geometry, Names
from resnet18.data.feeds.order import ALONE, Order, Position, Shard
from resnet18.data.feeds.resident import AUGMENT
from resnet18.engine.overhead import end_workers
from resnet18.engine.seeding import mix
from resnet18.errors import RunError


class Draw(NamedTuple):
    """A request for one image."""

    number: int  # its place in the list of files
    size: int  # side in pixels
    seed: int | None  # of its augmentation; none for evaluation


class ImageDecoding(Dataset[Any]):
    """Turns a batch of draws into (uint8 B×C×S×S in channels-last memory, B targets), in a worker."""

    def __init__(self, files: Files, geometry: Geometry, augmentation: Augmentation) -> None:
        self.root, self.labels, self.geometry, self.augmentation = files.root, files.labels, geometry, augmentation
        self.names = Names(files.names)
        self.transforms = _transforms(augmentation)
        smallest = math.sqrt(augmentation.crop[0] * RATIO[0]) if augmentation.crop else 1.0
        self.enough_to_crop = math.ceil(geometry.train / smallest)  # the smallest part still has all its pixels then

    def __getitems__(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        size = draws[0].size
        images = torch.empty(len(draws), size, size, self.geometry.channels, dtype=torch.uint8)  # B×S×S×C
        # The draws are seeded one by one; without workers they must not change the network's own random state.
        with torch.random.fork_rng(devices=[]):
            for image, draw in zip(images, draws, strict=True):
                image.copy_(self._image(draw).permute(1, 2, 0))  # C×S×S to S×S×C
        return images.permute(0, 3, 1, 2), self.labels[[draw.number for draw in draws]]

    def _image(self, draw: Draw) -> Tensor:
        path, geometry, crop = self.root / self.names[draw.number], self.geometry, self.augmentation.crop
        plain = draw.seed is None or crop is None
        enough = scaled_side(draw.size, geometry.share) if plain else self.enough_to_crop
        try:
            image = decode(path, geometry.channels, enough, checked=True)  # C×H×W
            if plain:
                image = centre(image, (draw.size, draw.size), geometry.share, geometry.interpolation)
        except UnreadableImage as error:
            raise RunError(f"{path}: {error}; it could be read when the run began") from None
        if draw.seed is not None:
            # Not torch.manual_seed, which seeds CUDA too, and formats a stack trace where there is none.
            torch.default_generator.manual_seed(draw.seed)
        if not plain:
            top, left, height, width = v2.RandomResizedCrop.get_params(image, list(crop), list(RATIO))
            # As torchvision's resized_crop, but in channels-last memory, which the batch has too.
            part = image[None, :, top : top + height, left : left + width]  # 1×C×h×w
            part = part.contiguous(memory_format=torch.channels_last)
            image = interpolate(part, (draw.size, draw.size), mode="bilinear", antialias=True)[0]
        return image if draw.seed is None else self._augmented(image)

    def _augmented(self, image: Tensor) -> Tensor:
        wanted = self.augmentation
        if wanted.translate:
            image = v2.RandomCrop(image.shape[1:], padding=wanted.translate, padding_mode="reflect")(image)
        for transform in self.transforms:
            image = transform(image)
        if wanted.cutout:
            colour, batch = torch.tensor(wanted.fill, dtype=torch.uint8), image.permute(1, 2, 0)[None]  # 1×S×S×C
            image = cutout(batch, wanted.cutout, colour, None)[0].permute(2, 0, 1)  # C×S×S
        return image


def _transforms(wanted: Augmentation) -> list[Callable[[Tensor], Tensor]]:
    fill: Any = list(wanted.fill)
    transforms: list[Callable[[Tensor], Tensor]] = [v2.RandomHorizontalFlip()] if wanted.flip else []
    if wanted.policy == "trivial":
        transforms.append(v2.TrivialAugmentWide(fill=fill))
    elif wanted.policy == "rand":
        transforms.append(v2.RandAugment(magnitude=wanted.magnitude, fill=fill))
    if wanted.erasing:
        transforms.append(v2.RandomErasing(wanted.erasing, value=fill))
    return transforms


class _TrainDraws:
    """The batches of a pass, as the sampler of a ``DataLoader``."""

    # Holds no reference to its loader: in a reference cycle the workers would outlive the loader until a later garbage
    # collection, which may happen in another process.

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


class StreamedLoader:
    """Batches decoded by workers that live through all passes, or by this process."""

    def __init__(self, dataset: Dataset[Any], draws: Any, num_workers: int, shard: Shard) -> None:
        self.batches = DataLoader(
            dataset,
            batch_sampler=draws,
            num_workers=num_workers,
            pin_memory=shard.device.type == "cuda",
            persistent_workers=num_workers > 0,
            collate_fn=tuple,
            worker_init_fn=_begin_work,
            generator=torch.Generator(),  # else each pass would advance the generator that dropout uses
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self.batches
        except RunError as error:
            # A worker's error has its traceback in its message; the last line is the reason.
            reason = str(error).strip().rpartition("\n")[2]
            raise RunError(reason.removeprefix(f"{RunError.__module__}.RunError: ")) from None

    def close(self) -> None:
        """Ends the workers now: garbage collection may do it in another process, and take 5 s a worker."""
        end_workers(self.batches)


class StreamedTrainLoader(StreamedLoader):
    """Shuffled, augmented training batches: (uint8 B×C×S×S in channels-last memory, B targets), on the CPU."""

    def __init__(
        self,
        files: Files,
        batch_size: int,
        seed: int,
        geometry: Geometry,
        augmentation: Augmentation,
        *,
        num_workers: int = 0,
        shard: Shard = ALONE,
        epochs: int = 1,  # of the run, for images that grow in it
        position: Callable[[], Position] | None = None,
    ) -> None:
        draws = _TrainDraws(Order(len(files), batch_size, seed, shard), geometry, position, epochs)
        super().__init__(ImageDecoding(files, geometry, augmentation), draws, num_workers, shard)


class StreamedEvaluationLoader(StreamedLoader):
    """Every image exactly once over all ranks, in order: (uint8 B×C×S×S, B targets, int64 B positions)."""

    def __init__(
        self, files: Files, batch_size: int, geometry: Geometry, *, num_workers: int = 0, shard: Shard = ALONE
    ) -> None:
        positions = torch.arange(len(files))[shard.rank :: shard.world_size]
        self.positions = positions.split(batch_size) if len(positions) else ()
        draws = [[Draw(number, geometry.evaluation, None) for number in batch.tolist()] for batch in self.positions]
        super().__init__(ImageDecoding(files, geometry, Augmentation()), draws, num_workers, shard)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for (images, labels), positions in zip(super().__iter__(), self.positions, strict=True):
            yield images, labels, positions


def _begin_work(worker: int) -> None:
    # Objects inherited by the fork stay uncollected here: an earlier loader's finalizer would wait 5 s for each of its
    # workers, which are not children of this process.
    gc.freeze()
