from collections.abc import Callable

import pytest
import torch

from resnet18 import ImageTensors
from resnet18.data.feeds.order import Position, Shard
from resnet18.data.feeds.resident import TrainLoader


def numbered(count: int, channels: int = 3) -> ImageTensors:
    """Images of random pixels, labelled with their own numbers."""
    images = torch.randint(0, 256, (count, 4, 6, channels), dtype=torch.uint8, generator=torch.Generator())
    return ImageTensors(images, torch.arange(count))


def at(epoch: int, batch: int = 0) -> Callable[[], Position]:
    return lambda: Position(epoch, batch)


def labels_of(loader: TrainLoader) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


def test_an_epoch_is_all_full_batches_of_different_images() -> None:
    loader = TrainLoader(numbered(11), 4, seed=0)
    assert len(loader) == 2
    labels = labels_of(loader)
    assert len(labels) == len(set(labels)) == 8


def test_the_images_left_over_change_with_the_epoch() -> None:
    loader = TrainLoader(numbered(11), 4, seed=0)
    left = {frozenset(range(11)) - set(labels_of(loader)) for _ in range(6)}
    assert len(left) > 3


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    loader = TrainLoader(numbered(50), 4, seed=3)
    passes = [labels_of(loader) for _ in range(3)]
    torch.manual_seed(1)
    assert [labels_of(TrainLoader(numbered(50), 4, seed=3, position=at(epoch))) for epoch in range(3)] == passes
    assert [loader.order.epoch(epoch).tolist() for epoch in range(3)] == passes
    others = [labels_of(TrainLoader(numbered(50), 4, seed=seed)) for seed in range(4, 8)]
    assert len({tuple(order) for order in [*passes, *others]}) == 7


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_order_of_one_rank_in_turn(world_size: int) -> None:
    pixels = numbered(53)
    ranks = [
        TrainLoader(pixels, 4, seed=5, shard=Shard(rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    batches = 53 // (4 * world_size)
    assert [len(loader) for loader in ranks] == [batches] * world_size
    for epoch in range(2):
        alone = TrainLoader(pixels, 1, seed=5, position=at(epoch))
        orders = [labels_of(loader) for loader in ranks]
        assert [len(order) for order in orders] == [4 * batches] * world_size
        together = [label for labels in zip(*orders, strict=True) for label in labels]
        assert together == labels_of(alone)[: 4 * batches * world_size]
        assert len(set(together)) == len(together)


@pytest.mark.parametrize(("count", "batch_size", "world_size"), [(3, 4, 1), (7, 4, 2), (0, 1, 1)])
def test_too_few_images_for_one_batch_on_every_rank_are_refused(count: int, batch_size: int, world_size: int) -> None:
    message = f"{count} training images do not fill a batch of {batch_size} on each of {world_size} ranks"
    with pytest.raises(ValueError, match=message):
        TrainLoader(numbered(count), batch_size, seed=0, shard=Shard(world_size=world_size))
