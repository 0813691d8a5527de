import json
from typing import Any

import numpy
import pytest
import torch
from conftest import ROOT
from sklearn.datasets import load_digits
from torch import Tensor

from resnet18 import Digits, ImageTensors
from resnet18.errors import RunError


@pytest.fixture(scope="module")
def table() -> numpy.ndarray:
    """scikit-learn's own reading: 1,797 lines of 64 pixels and a class."""
    pixels, classes = load_digits(return_X_y=True)
    return numpy.column_stack([pixels, classes])


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits()
    data.setup("fit")
    data.setup("test")
    return data


def rows(images: Tensor) -> list[bytes]:
    return [image.contiguous().numpy().tobytes() for image in images]


def test_there_are_1438_images_to_train_and_validate_on_and_359_to_test(digits: Digits) -> None:
    assert isinstance(digits.train, ImageTensors)
    assert isinstance(digits.val, ImageTensors)
    assert isinstance(digits.test, ImageTensors)
    assert len(digits.train.labels) + len(digits.val.labels) == 1438
    assert len(digits.val.labels) == 143
    assert len(digits.test.labels) == 359
    for part in (digits.train, digits.val, digits.test):
        images, labels = part.images, part.labels
        assert (images.shape[1:], images.dtype, labels.dtype) == ((8, 8, 1), torch.uint8, torch.int64)
        assert len(images) == len(labels)


def test_pixels_and_labels_are_scikit_learns_scaled_to_bytes(digits: Digits, table: numpy.ndarray) -> None:
    assert isinstance(digits.test, ImageTensors)
    chosen = table[[int(line) for line in digits.image_ids()]]
    expected = numpy.floor(chosen[:, :-1] * 255 / 16 + 0.5).reshape(-1, 8, 8, 1)
    # 8 of 16 is 127.5, which may be rounded to either side.
    assert numpy.abs(digits.test.images.numpy() - expected).max() <= 1
    assert (digits.test.images.numpy() == expected)[chosen[:, :-1].reshape(-1, 8, 8, 1) != 8].all()
    assert digits.test.images.amax() == 255
    assert digits.test.labels.tolist() == chosen[:, -1].tolist()


def test_no_test_image_is_among_those_trained_or_validated_on(digits: Digits, table: numpy.ndarray) -> None:
    assert isinstance(digits.train, ImageTensors)
    assert isinstance(digits.val, ImageTensors)
    assert isinstance(digits.test, ImageTensors)
    parts = [rows(part.images) for part in (digits.train, digits.val, digits.test)]
    together = [row for part in parts for row in part]
    # All of the file's images differ, so that their pixels stand for their lines.
    assert len(set(together)) == len(together) == len(table) == 1797


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_every_part_has_the_balance_of_the_whole(digits: Digits, table: numpy.ndarray, part: str) -> None:
    labels = getattr(digits, part).labels
    whole = numpy.bincount(table[:, -1].astype(int)) / len(table)
    assert (labels.bincount() / len(labels)).tolist() == pytest.approx(whole.tolist(), abs=0.01)


@pytest.mark.parametrize("rgb", [False, True])
def test_mean_and_standard_deviation_are_those_of_the_training_images(rgb: bool) -> None:
    data = Digits(rgb=rgb)
    pixels = data.load("train").images.double() / 255
    assert len(pixels) == 1438
    assert data.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=5e-4)
    assert data.std == pytest.approx(pixels.std((0, 1, 2)).tolist(), abs=5e-4)
    assert len(data.mean) == len(data.std) == data.input_size[0] == pixels.shape[-1]


def test_rgb_repeats_the_grey_value(digits: Digits) -> None:
    colour, grey = Digits(rgb=True).load("test"), digits.test
    assert isinstance(grey, ImageTensors)
    assert colour.images.shape == (359, 8, 8, 3)
    for channel in range(3):
        assert torch.equal(colour.images[..., channel], grey.images[..., 0])
    data = Digits(rgb=True)
    data.setup("fit")
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (64, *data.input_size)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_split_depends_on_the_split_seed_and_the_share_but_not_on_the_seed(digits: Digits) -> None:
    def split_hash(**settings: Any) -> str:
        return Digits(**settings).split_hash

    assert split_hash() == split_hash(seed=5) == split_hash(rgb=True, batch_size=8) == digits.split_hash
    assert len({split_hash(), split_hash(split_seed=1), split_hash(split_seed=2), split_hash(val_share=0.2)}) == 4


def test_the_test_images_are_the_same_for_every_seed_and_split(digits: Digits) -> None:
    other = Digits(seed=3, split_seed=4, val_share=0.3)
    other.setup("test")
    assert isinstance(other.test, ImageTensors)
    assert isinstance(digits.test, ImageTensors)
    assert torch.equal(other.test.images, digits.test.images)
    assert other.image_ids() == digits.image_ids()


def test_training_alone_does_not_load_the_test_images() -> None:
    data = Digits()
    data.setup("fit")
    assert data.test is None


def test_the_loaders_draw_from_the_seed() -> None:
    def first_batch(seed: int) -> Tensor:
        data = Digits(seed=seed, flip=True)
        data.setup("fit")
        return next(iter(data.train_dataloader()))[0]

    assert torch.equal(first_batch(1), first_batch(1))
    assert not torch.equal(first_batch(1), first_batch(2))


def test_validation_and_test_loaders_give_every_image_once_in_order(digits: Digits) -> None:
    for part, loader in ((digits.val, digits.val_dataloader()), (digits.test, digits.test_dataloader())):
        assert part is not None
        assert torch.equal(torch.cat([labels for _, labels, _ in loader]), part.labels)
        assert torch.cat([positions for *_, positions in loader]).tolist() == list(range(len(part.labels)))


def test_the_root_of_earlier_runs_may_be_null_only() -> None:
    assert Digits(root=None).split_hash == Digits().split_hash
    with pytest.raises(ValueError, match="root must be left out"):
        Digits(root="somewhere")  # type: ignore[arg-type]


def test_the_split_is_that_of_the_stored_runs() -> None:
    stored = json.loads((ROOT / "benchmarks/results/digits.json").read_text())
    assert Digits().split_hash == stored["split_hash"] == "997c10075dbe7a65"


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="batch_size is 1296, but there are 1295 images to train on"):
        Digits(batch_size=1296).setup("fit")
    Digits(batch_size=1295).setup("fit")


def test_a_shift_by_the_whole_image_is_refused() -> None:
    with pytest.raises(ValueError, match="translate must be below the image's size, not 8"):
        Digits(translate=8)


def test_the_data_must_be_the_checkpoints(digits: Digits) -> None:
    Digits(seed=9).load_state_dict(digits.state_dict())
    with pytest.raises(RunError, match="data: the checkpoint's split_hash is"):
        Digits(split_seed=1).load_state_dict(digits.state_dict())
    known = {**digits.state_dict(), "class_names": ["zero", *digits.class_names[1:]]}
    with pytest.raises(RunError, match=f"split_hash is {digits.split_hash}, .*; class 0 is zero there, 0 here"):
        digits.load_state_dict(known)
