from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet18 import ImageTensors
from resnet18.data.feeds.augment import Augmentation, gather_augmented
from resnet18.data.feeds.order import ALONE, Position, Shard
from resnet18.data.feeds.resident import EvaluationLoader, TrainLoader


def numbered(count: int, channels: int = 3) -> ImageTensors:
    """Images of random pixels, labelled with their own numbers."""
    images = torch.randint(0, 256, (count, 4, 6, channels), dtype=torch.uint8, generator=torch.Generator())
    return ImageTensors(images, torch.arange(count))


def at(epoch: int, batch: int = 0) -> Callable[[], Position]:
    return lambda: Position(epoch, batch)


def labels_of(loader: TrainLoader) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


def same(one: Sequence[tuple[Tensor, ...]], other: Sequence[tuple[Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)
    )


AUGMENTED: dict[str, Any] = {"augmentation": Augmentation(translate=1, flip=True)}


def test_a_batch_is_bytes_in_channels_last_memory_with_the_labels_of_its_images() -> None:
    pixels = numbered(10)
    images, labels = next(iter(TrainLoader(pixels, 4, seed=0)))
    assert (images.shape, images.dtype) == ((4, 3, 4, 6), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert torch.equal(images.permute(0, 2, 3, 1), pixels.images[labels])


def test_augmented_batches_are_channels_last_too_and_differ_from_the_plain_ones() -> None:
    pixels = numbered(10)
    for (plain, _), (augmented, labels) in zip(
        TrainLoader(pixels, 4, seed=0), TrainLoader(pixels, 4, seed=0, **AUGMENTED), strict=True
    ):
        assert augmented.is_contiguous(memory_format=torch.channels_last)
        assert (augmented.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert not torch.equal(plain, augmented)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(translate=1),
        Augmentation(flip=True),
        Augmentation(translate=1, flip=True),
        Augmentation(crop=(0.2, 1)),
        Augmentation(cutout=2),
    ],
)
def test_the_augmentation_depends_on_seed_step_and_rank(augmentation: Augmentation) -> None:
    # All images are equal: batches differ by their augmentation alone.
    one = numbered(1)
    pixels = ImageTensors(one.images.expand(32, -1, -1, -1).contiguous(), torch.arange(32))

    def batches(seed: int = 0, epoch: int = 0, shard: Shard = ALONE) -> list[Tensor]:
        loader = TrainLoader(pixels, 16, seed, augmentation, position=at(epoch), shard=shard)
        return [images for images, _ in loader]

    assert all(torch.equal(one, again) for one, again in zip(batches(), batches(), strict=True))
    ranks = [batches(shard=Shard(rank=rank, world_size=2)) for rank in range(2)]
    different = [*batches(), *batches(epoch=1), *batches(seed=1), ranks[1][0]]
    assert len({images.contiguous().numpy().tobytes() for images in different}) == len(different)


@pytest.mark.parametrize("settings", [{}, AUGMENTED])
@pytest.mark.parametrize("first", [0, 1, 5, 11, 12])
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_pass_begins_anywhere_with_the_tail_of_the_whole_one(
    epoch: int, first: int, settings: dict[str, Any]
) -> None:
    pixels = numbered(50)
    whole = list(TrainLoader(pixels, 4, seed=1, position=at(epoch), **settings))
    assert len(whole) == 12
    assert same(list(TrainLoader(pixels, 4, seed=1, position=at(epoch, first), **settings)), whole[first:])


def test_a_resumed_pass_is_followed_by_the_next_epoch() -> None:
    places = iter([Position(2, 3), Position(3, 0)])
    loader = TrainLoader(numbered(20), 4, seed=0, position=lambda: next(places))
    assert labels_of(loader) == loader.order.epoch(2).tolist()[12:]
    assert labels_of(loader) == loader.order.epoch(3).tolist()


def test_each_rank_augments_its_own_images_from_its_own_draws() -> None:
    pixels = numbered(32)
    for rank in range(2):
        loader = TrainLoader(pixels, 8, seed=0, shard=Shard(rank=rank, world_size=2), **AUGMENTED)
        for images, labels in loader:
            bases = pixels.images[labels]
            # No pixel comes from another image than the label's.
            for image, base in zip(images, bases, strict=True):
                assert set(image.flatten().tolist()) <= set(base.flatten().tolist())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 12, 13])
def test_evaluation_sees_every_image_once_over_all_ranks(count: int, world_size: int) -> None:
    pixels = numbered(count)
    seen: list[int] = []
    for rank in range(world_size):
        loader = EvaluationLoader(pixels, 4, shard=Shard(rank=rank, world_size=world_size))
        batches = list(loader)
        assert len(batches) == len(loader)
        assert [len(labels) for _, labels, _ in batches[:-1]] == [4] * (len(batches) - 1)
        for images, labels, positions in batches:
            assert positions.dtype == torch.int64
            assert torch.equal(images.permute(0, 2, 3, 1), pixels.images[positions])
            assert torch.equal(labels, pixels.labels[positions])
            seen += positions.tolist()
    assert sorted(seen) == list(range(count))
    if world_size == 1:
        assert seen == list(range(count))


def test_evaluation_batches_are_bytes_in_channels_last_memory_and_the_same_in_every_pass() -> None:
    loader = EvaluationLoader(numbered(10), 4)
    first, second = list(loader), list(loader)
    for (images, *_), (again, *_) in zip(first, second, strict=True):
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, again)


def test_unaugmented_batches_do_not_share_memory_with_the_data() -> None:
    pixels = numbered(10)
    before = pixels.images.clone()
    for images, _ in TrainLoader(pixels, 4, seed=0):
        images.fill_(0)
    assert torch.equal(pixels.images, before)
    assert torch.equal(
        gather_augmented(pixels.images, torch.arange(10), translate=0, flip=False, generator=None), before
    )
