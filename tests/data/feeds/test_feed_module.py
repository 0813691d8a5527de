from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture_folder

from resnet18 import ImageFolder, ImageTensors
from resnet18.data.feeds.cache import decode_or_load


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two classes of ten images each, and four each to test on."""
    picture_folder(tmp_path / "images/train", each=10)
    picture_folder(tmp_path / "images/test", each=4)
    return tmp_path / "images"


def folder(place: Path, **settings: Any) -> ImageFolder:
    cache = str(place.parent / "cache")
    given: dict[str, Any] = {"image_size": 16, "batch_size": 4, "num_workers": 0, "cache_dir": cache}
    return ImageFolder(str(place), **{**given, **settings})


def prepared(place: Path, *stages: str, **settings: Any) -> ImageFolder:
    data = folder(place, **settings)
    data.prepare_data()
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


@pytest.mark.parametrize("channels", [1, 3])
def test_both_feeds_show_the_same_pixels_at_evaluation(place: Path, channels: int) -> None:
    settings: dict[str, Any] = {"channels": channels, "eval_share": 0.9, "interpolation": "bicubic"}
    resident = prepared(place, "fit", "test", feed="resident", **settings)
    streamed = prepared(place, "fit", "test", feed="streamed", **settings)
    assert resident.mean == streamed.mean
    assert len(resident.mean) == channels
    for part in ("train", "val", "test"):
        batches = zip(resident.evaluation_dataloader(part), streamed.evaluation_dataloader(part), strict=True)
        for one, other in batches:
            assert one[0].shape[1:] == (channels, 16, 16)
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_a_limited_number_of_images_is_evenly_spaced(place: Path, feed: Any) -> None:
    data = prepared(place, feed=feed)
    (batch,) = data.evaluation_dataloader("train", at_most=4)
    assert batch[0].shape == (4, 3, 16, 16)
    assert batch[1].tolist() == [0, 0, 1, 1]
    assert sum(len(labels) for _, labels, _ in data.evaluation_dataloader("train", at_most=99)) == 18


def test_resident_training_and_validation_images_are_one_tensor(place: Path) -> None:
    data = prepared(place)
    assert isinstance(data.train, ImageTensors)
    assert isinstance(data.val, ImageTensors)
    assert data.train.store.data_ptr() == data.val.store.data_ptr()
    expected = decode_or_load(data.load("train"), data.geometry, place.parent / "cache", keep=True).store
    assert expected is not None
    assert torch.equal(data.train.store, expected)


def test_test_images_have_their_paths_as_names(place: Path) -> None:
    (place / "test/cat/2.jpg").write_bytes(b"")
    data = prepared(place, "test", broken="skip")
    assert data.image_ids() == ["cat/0.jpg", "cat/1.jpg", "cat/3.jpg", *(f"dog/{number}.jpg" for number in range(4))]
    assert data.train is None
