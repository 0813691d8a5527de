"""Folders of images: what is listed and what is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import picture, picture_folder

from resnet18 import ImageFolder
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


def test_the_train_folder_given_as_root_is_recognised(place: Path) -> None:
    with pytest.raises(RunError, match=f"^data.root: {place}/train has no train/; give {place} instead$"):
        folder(place / "train")


def test_parts_with_other_classes_are_refused(place: Path) -> None:
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


@pytest.mark.skipif(os.name != "posix", reason="names that are not valid text exist on POSIX only")
def test_names_that_are_no_valid_text_are_read(tmp_path: Path) -> None:
    picture_folder(tmp_path / "train", each=6)
    os.rename(tmp_path / "train/cat/0.jpg", os.fsencode(tmp_path / "train/cat") + b"/\xff.jpg")
    for feed in ("resident", "streamed"):
        data = prepared(tmp_path, feed=feed)
        assert sum(len(labels) for _, labels in data.train_dataloader()) == 8
