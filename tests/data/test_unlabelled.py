"""Images that nobody labelled, found and predicted."""

import csv
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, picture_folder

from resnet18.data.unlabelled import Unlabelled
from resnet18.errors import RunError

TINY = (
    *("fit", "--config", ROOT / "configs/imagefolder.yaml", "--data.root", "images", "--data.cache_dir", "cache"),
    *("--data.image_size", "32", "--data.batch_size", "4", "--model.backbone.width", "8"),
    *("--trainer.precision", "32-true", "--trainer.log_every_n_steps", "1"),
)


STREAMED = ("--data.feed", "streamed", "--data.num_workers", "2", "--data.policy", "trivial")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    picture_folder(tmp_path / "images/train", ["cat", "a dog"], each=11)
    picture_folder(tmp_path / "images/test", ["cat", "a dog"], each=3)
    return tmp_path / "images"


@pytest.mark.parametrize("options", [(), STREAMED], ids=["resident", "streamed"])
def test_unlabelled_images_are_predicted_like_test_images(images: Path, lightning, options: tuple[str, ...]) -> None:
    assert (
        lightning(
            *TINY, *options, "--data.eval_share", 0.8, "--data.interpolation", "bicubic", "--trainer.max_epochs", 1
        ).status
        == 0
    )
    assert lightning("predict", "--ckpt_path", "runs/imagefolder/latest", "--output", "tested.csv").status == 0
    images.rename(images.with_name("somewhere"))
    predict = ("predict", "--ckpt_path", "runs/imagefolder/latest", "--images")
    done = lightning(*predict, "somewhere/test")
    assert done.status == 0, done.err
    assert done.out == "6 predictions in predictions.csv\n"
    tested = Path("tested.csv").read_text().splitlines()
    assert Path("predictions.csv").read_text().splitlines() == [
        f"{tested[0]},error",
        *(f"{row}," for row in tested[1:]),
    ]
    assert lightning(*predict, "somewhere/test/cat/1.jpg").status == 0
    (row,) = Path("predictions.csv").read_text().splitlines()[1:]
    assert row == f"somewhere/test/{tested[5]},"


def test_a_network_for_small_grey_images_predicts_photographs_too(trained: Path, tmp_path: Path, lightning) -> None:
    picture_folder(tmp_path / "pictures", ["a", "b"], each=2)
    (tmp_path / "pictures" / "broken.png").write_text("text")
    whole = (tmp_path / "pictures" / "a" / "0.jpg").read_bytes()
    (tmp_path / "pictures" / "a" / "cut.jpg").write_bytes(whole[: -len(whole) // 8])
    done = lightning("predict", "--ckpt_path", trained, "--images", "pictures")
    assert done.status == 1
    grey = "images in colour are converted to grey: the network has one channel"
    assert done.out == f"{grey}\n4 predictions in predictions.csv\n"
    broken = {"a/cut.jpg": "Image is incomplete or truncated", "broken.png": "not an image of a known kind"}
    reasons = ", ".join(f"{name} ({reason})" for name, reason in broken.items())
    assert done.err == f"lightning predict: 2 of 6 images can't be read: {reasons}\n"
    rows = list(csv.DictReader(Path("predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["a/0.jpg", "a/1.jpg", "a/cut.jpg", "b/0.jpg", "b/1.jpg", "broken.png"]
    for row in rows:
        assert row["error"] == broken.get(row["image"], "")
        assert (row["class"] in set("0123456789")) == (row["image"] not in broken)
        assert bool(row["probability"]) == (row["image"] not in broken)


def test_a_table_of_reasons_alone(trained: Path, tmp_path: Path, lightning) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").touch()
    done = lightning("predict", "--ckpt_path", trained, "--images", ".", "--data.eval_batch_size", 2)
    assert done.status == 1
    assert "\n0 predictions in predictions.csv\n" in done.out
    assert "5 of 5 images can't be read: 0.png (the file is empty), 1.png" in done.err
    assert done.err.endswith("2.png (the file is empty) and 2 more\n")
    assert Path("predictions.csv").read_text().count(",,,the file is empty\n") == 5


@pytest.mark.parametrize(("place", "message"), [("nowhere", "there is no nowhere"), (".", ". holds no image (.jpg,")])
def test_missing_images_are_reported(trained: Path, lightning, place: str, message: str) -> None:
    done = lightning("predict", "--ckpt_path", trained, "--images", place)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"lightning predict: images: {message}")


DESCRIBED: Any = {"class_names": ("a", "b"), "mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 8, 8]}


def unlabelled(*images: str) -> Unlabelled:
    return Unlabelled(images, **DESCRIBED, num_workers=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "pics", each=2)
    for name in ("notes.txt", ".hidden.jpg", "dog/[1].jpg"):
        (tmp_path / "pics" / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


CAT, DOG = ["cat/0.jpg", "cat/1.jpg"], ["dog/0.jpg", "dog/1.jpg", "dog/[1].jpg"]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["pics"], [*CAT, *DOG]),  # below the only directory
        (["pics/dog", "./pics/cat"], [f"pics/{name}" for name in [*DOG, *CAT]]),
        (["pics/dog/1.jpg"], ["pics/dog/1.jpg"]),
        (["pics/notes.txt"], ["pics/notes.txt"]),  # was meant, so it gets a row
        (["pics/dog/[1].jpg"], ["pics/dog/[1].jpg"]),  # a name before a pattern
        (["pics/dog/[1]*"], ["pics/dog/1.jpg"]),
        (["pics/*/1.jpg"], ["pics/cat/1.jpg", "pics/dog/1.jpg"]),
        (["pics/*"], [f"pics/{name}" for name in [*CAT, *DOG]]),
        (["p*/**/0.jpg"], ["pics/cat/0.jpg", "pics/dog/0.jpg"]),
        (["pics/dog/0.jpg", "pics/*/0.jpg", "pics/../pics/dog/0.jpg"], ["pics/dog/0.jpg", "pics/cat/0.jpg"]),
    ],
)
def test_images_are_found_once_in_the_order_given(images: list[str], names: list[str], here: Path) -> None:
    data = unlabelled(*images)
    if len(images) == 1:
        data = Unlabelled(images[0], **DESCRIBED, num_workers=0)
    data.setup("predict")
    assert list(data.image_ids()) == names
    positions = [position for *_, batch in data.predict_dataloader() for position in batch.tolist()]
    assert positions == list(range(len(names)))
    assert all(names[position].endswith(("notes.txt", "[1].jpg")) for position in data.unreadable)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["pics", "pcs/cat"], "there is no pcs/cat; did you mean pics?"),
        (["pics/cat/1.jpeg"], "there is no pics/cat/1.jpeg; did you mean pics/cat/1.jpg?"),
        (["pics", "zzz"], "there is no zzz"),
        ([""], "there is no ''"),
        (["~nobody-of-that-name/x"], "there is no ~nobody-of-that-name/x"),
        (["pics", "empty"], "empty holds no image (.jpg, "),
        (["pics/*.txt"], "pics/*.txt matches no image (.jpg, "),
        ([], "none are given"),
    ],
)
def test_a_path_without_images_is_refused(images: list[str], message: str, here: Path) -> None:
    with pytest.raises(RunError) as raised:
        unlabelled(*images).prepare_data()
    assert str(raised.value).startswith(f"images: {message}")
    assert ("did you mean" in str(raised.value)) == ("did you mean" in message)


def test_only_grey_or_colour_is_decoded() -> None:
    with pytest.raises(ValueError, match="decoded to 1 or 3 channels, not to the 4 of"):
        Unlabelled(class_names=("a",), mean=[0.5], std=[0.5], input_size=[4, 8, 8])
