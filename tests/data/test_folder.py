"""Folders of one's own images: what is listed, what is refused, and which feed they get."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, picture_folder

from resnet18 import Files, ImageFolder, ImageNet, ImageTensors
from resnet18.data.feeds.cache import decode_or_load
from resnet18.data.feeds.streamed import StreamedEvaluationLoader, StreamedTrainLoader
from resnet18.errors import RunError


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


def test_the_classes_are_the_directories_in_order(tmp_path: Path) -> None:
    classes = ["Zebra", "a dog", "où", "猫", "10", "9"]
    picture_folder(tmp_path / "train", classes, each=2)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "list.txt").touch()
    data = folder(tmp_path)
    assert data.class_names == tuple(sorted(classes)) == ("10", "9", "Zebra", "a dog", "où", "猫")
    assert data.num_classes == 6
    files = data.load("train")
    assert files.labels.tolist() == [label for label in range(6) for _ in range(2)]
    assert list(files.names)[-2:] == ["猫/0.jpg", "猫/1.jpg"]


def test_images_are_found_deeper_and_behind_links_and_by_their_names_alone(place: Path) -> None:
    cat = place / "train" / "cat"
    (cat / "deeper" / "still").mkdir(parents=True)
    picture(1).save(cat / "deeper" / "still" / "A.JPEG", format="jpeg")
    picture(2).save(place / "elsewhere.png")
    (cat / "link.png").symlink_to(place / "elsewhere.png")
    (cat / "linked").symlink_to(place / "test" / "cat")
    (cat / "back up").symlink_to(cat)  # a circle
    (cat / "notes.txt").write_text("no image")
    (cat / ".hidden.jpg").write_text("no image")
    names = [name for name in folder(place).load("train").names if name.startswith("cat/")]
    linked = [f"cat/linked/{number}.jpg" for number in range(4)]
    plain = [f"cat/{number}.jpg" for number in range(10)]
    assert sorted(names) == sorted([*plain, "cat/deeper/still/A.JPEG", "cat/link.png", *linked])
    assert names == sorted(names)


def test_a_tenth_of_every_class_validates_unless_there_are_images_for_it(place: Path) -> None:
    data = prepared(place)
    assert data.train is not None
    assert data.val is not None
    assert (len(data.train), len(data.val)) == (18, 2)
    assert data.val.labels.tolist() == [0, 1]
    before = data.split_hash
    picture_folder(place / "val", each=3)
    given = prepared(place)
    assert given.train is not None
    assert given.val is not None
    assert (len(given.train), len(given.val)) == (20, 6)
    assert given.split_hash != before


def test_the_fingerprint_changes_with_the_names_and_not_with_what_is_done_to_them(place: Path) -> None:
    one = folder(place).split_hash
    assert folder(place, image_size=32, feed="streamed", broken="skip").split_hash == one
    assert folder(place, split_seed=1).split_hash != one
    (place / "train/cat/3.jpg").rename(place / "train/cat/3a.jpg")
    assert folder(place).split_hash != one


def test_the_split_stays_where_images_are_left_out(place: Path) -> None:
    whole = prepared(place, feed="streamed")
    before = whole.split_hash
    assert isinstance(whole.train, Files)
    (place / "train/dog/7.jpg").write_bytes(b"")
    data = prepared(place, feed="streamed", broken="skip")
    assert data.split_hash == before
    assert isinstance(data.train, Files)
    assert isinstance(data.val, Files)
    assert {*data.train.names, *data.val.names} == {*folder(place).load("train").names} - {"dog/7.jpg"}


def test_the_feed_is_resident_up_to_the_limit(place: Path) -> None:
    exactly = 20 * 3 * 16 * 16 / 1e9
    data = prepared(place, resident_limit_gb=exactly)
    assert isinstance(data.train, ImageTensors)
    assert data.feed == "resident"
    assert "20 files decoded once to 3×16×16" in data.feed_note()
    data = prepared(place, resident_limit_gb=exactly * 0.99)
    assert isinstance(data.train, Files)
    assert isinstance(data.train_dataloader(), StreamedTrainLoader)
    assert isinstance(data.val_dataloader(), StreamedEvaluationLoader)
    assert data.feed_note().startswith("streamed feed, 0 workers: decoded, 0.00 GB would be over resident_limit_gb = ")
    assert prepared(place, feed="streamed").feed_note() == "streamed feed, 0 workers: as asked"
    assert prepared(place, feed="resident", resident_limit_gb=0.0).feed == "resident"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"policy": "trivial"}, "policy and erasing are done to one image at a time"),
        ({"policy": "rand"}, "policy and erasing are done to one image at a time"),
        ({"erasing": 0.1}, "policy and erasing are done to one image at a time"),
        ({"first_size": 8}, "first_size lets the images grow"),
        ({"eval_size": 24}, "eval_size is not image_size"),
    ],
)
def test_what_the_resident_feed_can_not_do_is_streamed_and_says_why(
    place: Path, settings: dict[str, Any], reason: str
) -> None:
    data = prepared(place, **settings)
    assert data.feed_note() == f"streamed feed, 0 workers: {reason}"
    assert len(list(data.train_dataloader())) == 4
    with pytest.raises(ValueError, match=f"feed is resident, but {reason}"):
        folder(place, feed="resident", **settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_feeds_show_the_same_pixels_at_evaluation(place: Path, channels: int) -> None:
    settings: dict[str, Any] = {"channels": channels, "eval_share": 0.9}
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
def test_at_most_so_many_images_are_evenly_spaced(place: Path, feed: Any) -> None:
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


def test_all_broken_files_are_listed_with_their_reasons(place: Path) -> None:
    (place / "train/cat/0.jpg").write_bytes(b"")
    (place / "train/dog/9.jpg").write_text("text")
    content = (place / "train/dog/3.jpg").read_bytes()
    (place / "train/dog/3.jpg").write_bytes(content[:300])
    (place / "train/dog/new.jpg").symlink_to(place / "nowhere.jpg")
    for feed in ("resident", "streamed"):
        with pytest.raises(RunError) as error:
            folder(place, feed=feed).setup("fit")
        lines = str(error.value).splitlines()
        assert lines[0] == "data: 4 image files can't be read"
        assert [line.partition(": ")[0].strip() for line in lines[1:5]] == [
            str(place / "train" / name) for name in ("cat/0.jpg", "dog/3.jpg", "dog/9.jpg", "dog/new.jpg")
        ]
        assert lines[1].endswith(": the file is empty")
        assert lines[4].endswith(": a link that points nowhere")
        assert lines[5] == "Take them away, or leave them out with --data.broken skip"


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_broken_test_images_are_known_before_the_training(
    place: Path, feed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "train/dog/9.jpg").write_text("text")
    (place / "test/cat/1.jpg").write_bytes(b"")
    with pytest.raises(RunError) as error:
        folder(place, feed=feed).setup("fit")
    assert [line.partition(": ")[0].strip() for line in str(error.value).splitlines()[:3]] == [
        "data",
        str(place / "train/dog/9.jpg"),
        str(place / "test/cat/1.jpg"),
    ]
    data = prepared(place, "fit", feed=feed, broken="skip")
    assert data.test is None
    assert "left out, for they can't be read: 2 image files" in caplog.text
    written = {path: path.stat().st_mtime_ns for path in (place.parent / "cache").iterdir()}
    data = prepared(place, "test", feed=feed, broken="skip")
    assert len(data.image_ids()) == 7
    assert {path: path.stat().st_mtime_ns for path in (place.parent / "cache").iterdir()} == written
    prepared(place, "validate", feed=feed, broken="skip")


def test_test_images_that_are_no_such_are_left_for_the_test_to_refuse(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(place / "test/cat")
    assert prepared(place).train is not None
    reason = f"the parts should have the same classes: {place}/test lacks cat"
    assert f"the test images were not looked at: data.root: {reason}" in caplog.text
    with pytest.raises(RunError, match=reason):
        prepared(place, "test")
    shutil.rmtree(place / "test")
    caplog.clear()
    assert prepared(place).train is not None
    assert not caplog.text


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", each=60)
    for number in range(50):
        (tmp_path / f"train/cat/{number}.jpg").write_bytes(b"")
    with pytest.raises(RunError) as error:
        folder(tmp_path).setup("fit")
    lines = str(error.value).splitlines()
    assert lines[0] == "data: 50 image files can't be read"
    assert lines[41] == "  and 10 more"
    assert len(lines) == 43


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_broken_files_can_be_left_out(place: Path, feed: Any) -> None:
    (place / "train/cat/0.jpg").write_bytes(b"")
    (place / "train/dog/9.jpg").write_text("text")
    data = prepared(place, feed=feed, broken="skip")
    assert data.train is not None
    assert data.val is not None
    assert len(data.train) + len(data.val) == 18
    for part in ("train", "val"):
        for images, _, _ in data.evaluation_dataloader(part):
            assert images.flatten(1).any(1).all()  # what was never decoded is black


def test_a_class_that_is_left_with_no_image_is_named(place: Path) -> None:
    for number in range(10):
        (place / f"train/cat/{number}.jpg").write_bytes(b"")
    data = folder(place, broken="skip")
    with pytest.raises(RunError, match=r"there is no image to train on of the class cat$"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: shutil.rmtree(place), r"there is no directory {place}; {place}/train/<class>/ with images is"),
        (lambda place: shutil.rmtree(place / "train"), r"there is no directory {place}/train; {place}/train/<class>/"),
        (lambda place: shutil.rmtree(place / "train/cat"), "{place}/train should have .* two; it has only dog"),
        (
            lambda place: [shutil.rmtree(place / "train" / name) for name in ("cat", "dog")],
            "{place}/train should have a directory for each class, at least two; it has none",
        ),
    ],
    ids=["nothing", "no train", "one class", "no class"],
)
def test_missing_directories_are_named(place: Path, change: Any, message: str) -> None:
    change(place)
    with pytest.raises(RunError, match=message.format(place=place)):
        folder(place)


def test_the_part_given_for_the_whole_is_told_from_it(place: Path) -> None:
    with pytest.raises(RunError, match=f"^data.root: {place}/train has no train/; give {place} instead$"):
        folder(place / "train")


def test_parts_with_other_classes_are_told_apart(place: Path) -> None:
    picture_folder(place / "val", ["cat", "dgo", "emu"], each=1)
    with pytest.raises(RunError) as error:
        folder(place).setup("fit")
    lacks = f"{place}/val lacks dog; {place}/train lacks dgo, emu"
    assert str(error.value) == f"data.root: the parts should have the same classes: {lacks}"


def test_an_empty_class_is_named_but_may_stand_in_the_other_parts(place: Path) -> None:
    (place / "train/emu").mkdir()
    (place / "train/emu/readme.txt").touch()
    with pytest.raises(RunError, match=f"{place}/train/emu holds no image \\(.jpg, "):
        folder(place).setup("fit")
    picture(1).save(place / "train/emu/1.jpg")
    picture(2).save(place / "train/emu/2.jpg")
    (place / "test/emu").mkdir()
    assert len(prepared(place, "test").image_ids()) == 8


def test_a_class_with_one_image_can_not_be_cut(place: Path) -> None:
    picture_folder(place / "train", ["emu"], each=1)
    data = folder(place)
    with pytest.raises(RunError, match="emu has one image only; a split needs at least two of every class"):
        data.setup("fit")
    picture_folder(place / "val", ["cat", "dog", "emu"], each=1)
    assert prepared(place).train is not None


def test_no_directory_to_test_on_is_named(place: Path) -> None:
    shutil.rmtree(place / "test")
    data = prepared(place)
    with pytest.raises(RunError, match=f"there is no directory {place}/test; "):
        data.setup("test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_size": 32}, "first_size must be at most image_size, 16"),
        ({"growth": (0.9, 0.1)}, "growth must be two ascending shares"),
        ({"crop": (0.5, 1.5)}, "crop must be two shares of the area"),
        ({"translate": 2}, "translate and crop exclude each other"),
        ({"mean": [0.5]}, "mean and std must have 3 values"),
    ],
)
def test_values_that_contradict_each_other_are_refused(place: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder(place, **settings)


def test_imagenets_validation_images_are_the_test_images(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", ["n01440764", "n01443537"], each=10)
    picture_folder(tmp_path / "val", ["n01440764", "n01443537"], each=3)
    data = ImageNet(str(tmp_path), image_size=32, batch_size=4, num_workers=0, cache_dir=str(tmp_path / "cache"))
    assert (data.geometry.share, data.crop, data.val_share, data.has_val) == (0.875, (0.08, 1.0), 0.01, False)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.train is not None
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.image_ids())) == (18, 2, 6)


@pytest.mark.skipif(os.name != "posix", reason="names that are not valid text exist on POSIX only")
def test_names_that_are_no_valid_text_are_read(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", each=6)
    os.rename(tmp_path / "train/cat/0.jpg", os.fsencode(tmp_path / "train/cat") + b"/\xff.jpg")
    for feed in ("resident", "streamed"):
        data = prepared(tmp_path, feed=feed)
        assert sum(len(labels) for _, labels in data.train_dataloader()) == 8
