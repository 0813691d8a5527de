from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture_folder
from torch import Tensor
from torchvision.transforms import v2

from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.decode import centre, decode
from resnet18.data.feeds.files import Files, Geometry
from resnet18.data.feeds.order import Position, Shard
from resnet18.data.feeds.resident import AUGMENT
from resnet18.data.feeds.streamed import StreamedEvaluationLoader, StreamedTrainLoader
from resnet18.engine.seeding import mix
from resnet18.errors import RunError

GEOMETRY = Geometry(16, 24, 0.875)
CROP = Augmentation(crop=(0.2, 1.0), flip=True)
EVERYTHING = Augmentation(crop=(0.2, 1.0), flip=True, policy="trivial", erasing=0.5, cutout=4, fill=(1, 2, 3))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Twenty-two images, labelled with their own numbers."""
    place = picture_folder(tmp_path_factory.mktemp("streamed"), each=11)
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*.jpg"))
    return Files(place, names, torch.arange(len(names)))


def at(epoch: int, batch: int = 0) -> Callable[[], Position]:
    return lambda: Position(epoch, batch)


def same(one: Sequence[tuple[Tensor, ...]], other: Sequence[tuple[Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)
    )


def images_of(batches: Sequence[tuple[Tensor, ...]]) -> dict[int, Tensor]:
    return {int(label): image for images, labels in batches for image, label in zip(images, labels, strict=True)}


def test_a_batch_is_bytes_in_channels_last_memory_with_the_labels_of_its_images(files: Files) -> None:
    images, labels = next(iter(StreamedTrainLoader(files, 4, 0, GEOMETRY, Augmentation())))
    assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 16, 16), torch.uint8, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, label in zip(images, labels.tolist(), strict=True):
        assert torch.equal(image, centre(decode(files.root / files.names[label]), (16, 16), 0.875))


@pytest.mark.parametrize("augmentation", [CROP, EVERYTHING], ids=["crop", "everything"])
def test_order_and_augmentation_do_not_depend_on_the_workers(files: Files, augmentation: Augmentation) -> None:
    passes = []
    for num_workers in (0, 1, 2):
        loader = StreamedTrainLoader(files, 4, 0, GEOMETRY, augmentation, num_workers=num_workers)
        assert len(loader) == 5
        passes.append([*loader, *loader])  # two epochs, by the same workers
        torch.manual_seed(num_workers)
    assert len(passes[0]) == 10
    assert same(passes[0], passes[1])
    assert same(passes[0], passes[2])
    first, second = passes[0][:5], passes[0][5:]
    assert [labels.tolist() for _, labels in first] != [labels.tolist() for _, labels in second]


def test_an_augmentation_depends_on_seed_epoch_and_image_alone(files: Files) -> None:
    whole = images_of(list(StreamedTrainLoader(files, 22, 0, GEOMETRY, CROP)))
    assert len(whole) == 22
    parts: dict[int, Tensor] = {}
    for rank in range(2):
        parts |= images_of(list(StreamedTrainLoader(files, 3, 0, GEOMETRY, CROP, shard=Shard(rank=rank, world_size=2))))
    assert len(parts) == 18
    for label, image in parts.items():
        assert torch.equal(image, whole[label])
    for other in (
        StreamedTrainLoader(files, 22, 1, GEOMETRY, CROP),
        StreamedTrainLoader(files, 22, 0, GEOMETRY, CROP, position=at(1)),
    ):
        differing = [label for label, image in images_of(list(other)).items() if not torch.equal(image, whole[label])]
        assert len(differing) > 15


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("first", [0, 1, 4, 5])
def test_a_pass_begins_anywhere_with_the_tail_of_the_whole_one(files: Files, first: int, num_workers: int) -> None:
    whole = list(StreamedTrainLoader(files, 4, 1, GEOMETRY, CROP, position=at(2)))
    settings: dict[str, Any] = {"num_workers": num_workers, "position": at(2, first)}
    assert same(list(StreamedTrainLoader(files, 4, 1, GEOMETRY, CROP, **settings)), whole[first:])


def test_the_crop_is_torchvisions_for_the_same_draws(files: Files) -> None:
    loader = StreamedTrainLoader(files, 22, 5, GEOMETRY, Augmentation(crop=(0.2, 1.0)))
    expected = v2.RandomResizedCrop(16, scale=(0.2, 1.0), antialias=True)
    for number, image in images_of(list(loader)).items():
        torch.manual_seed(mix(5, AUGMENT, 0, number))
        assert torch.equal(image, expected(decode(files.root / files.names[number])))


def test_without_workers_the_networks_draws_stay_as_they_are(files: Files) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert len(list(StreamedTrainLoader(files, 4, 0, GEOMETRY, EVERYTHING))) == 5
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "changed",
    [
        Augmentation(flip=True),
        Augmentation(translate=3),
        Augmentation(policy="trivial"),
        Augmentation(policy="rand"),
        Augmentation(erasing=1.0),
        Augmentation(cutout=6),
    ],
    ids=["flip", "translate", "trivial", "rand", "erasing", "cutout"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_augmentation_changes_images_and_leaves_their_form(
    files: Files, changed: Augmentation, channels: int
) -> None:
    geometry = Geometry(16, 16, 1.0, channels)
    plain = images_of(list(StreamedTrainLoader(files, 22, 0, geometry, Augmentation())))
    augmented = images_of(list(StreamedTrainLoader(files, 22, 0, geometry, changed)))
    assert sum(not torch.equal(plain[label], augmented[label]) for label in plain) > 5
    assert {image.shape for image in augmented.values()} == {(channels, 16, 16)}
    if changed.flip:
        for label, image in augmented.items():
            assert torch.equal(image, plain[label]) or torch.equal(image, plain[label].flip(2))


@pytest.mark.parametrize("wanted", [Augmentation(erasing=1.0, fill=(9, 8, 7)), Augmentation(cutout=8, fill=(9, 8, 7))])
def test_what_is_painted_over_has_the_given_colour(files: Files, wanted: Augmentation) -> None:
    painted = 0
    for image in images_of(list(StreamedTrainLoader(files, 22, 0, GEOMETRY, wanted))).values():
        painted += int((image == torch.tensor([9, 8, 7]).view(3, 1, 1)).all(0).sum() >= 5)
    assert painted == 22


def test_growing_images_come_in_the_epochs_size(files: Files) -> None:
    geometry = Geometry(64, 64, first=32, growth=(0.0, 1.0))
    loader = StreamedTrainLoader(files, 4, 0, geometry, CROP, epochs=4, num_workers=1)
    assert [{images.shape[-1] for images, _ in loader} for _ in range(4)] == [{32}, {32}, {64}, {64}]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_sees_every_image_once_over_all_ranks(files: Files, world_size: int, num_workers: int) -> None:
    seen = []
    for rank in range(world_size):
        loader = StreamedEvaluationLoader(
            files, 4, GEOMETRY, num_workers=num_workers, shard=Shard(rank=rank, world_size=world_size)
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        for images, labels, positions in batches:
            assert labels.tolist() == positions.tolist()
            seen += positions.tolist()
            for image, position in zip(images, positions.tolist(), strict=True):
                assert torch.equal(image, centre(decode(files.root / files.names[position]), (24, 24), 0.875))
        assert same(batches, list(loader))
    assert sorted(seen) == list(range(22))


def test_an_empty_share_of_the_images_is_no_batches(files: Files) -> None:
    few = files.take(torch.tensor([3]))
    assert list(StreamedEvaluationLoader(few, 4, GEOMETRY, shard=Shard(rank=1, world_size=2))) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_is_gone_is_named_in_a_line(tmp_path: Path, num_workers: int) -> None:
    place = picture_folder(tmp_path, each=4)
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*.jpg"))
    (place / names[5]).unlink()
    loader = StreamedTrainLoader(Files(place, names, torch.arange(8)), 4, 0, GEOMETRY, CROP, num_workers=num_workers)
    with pytest.raises(RunError) as error:
        list(loader)
    assert str(error.value) == f"{place / names[5]}: no such file; it could be read when the run began"


def test_too_few_images_for_one_batch_on_every_rank_are_refused(files: Files) -> None:
    with pytest.raises(ValueError, match="22 training images do not fill a batch of 12 on each of 2 ranks"):
        StreamedTrainLoader(files, 12, 0, GEOMETRY, CROP, shard=Shard(world_size=2))
