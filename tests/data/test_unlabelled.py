"""Images that nobody labelled, predicted."""

from pathlib import Path

import pytest
from conftest import ROOT, picture_folder

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
    predict = ("predict", "--ckpt_path", "runs/imagefolder/latest", "--data.cache_dir", "cache", "--images")
    done = lightning(*predict, "somewhere/test")
    assert done.status == 0, done.err
    assert done.out.endswith("6 predictions in predictions.csv\n")
    assert Path("predictions.csv").read_text() == Path("tested.csv").read_text()
    assert lightning(*predict, "somewhere/test/cat/1.jpg").status == 0
    (row,) = Path("predictions.csv").read_text().splitlines()[1:]
    assert f"cat/{row}" in Path("tested.csv").read_text()


def test_a_network_for_small_grey_images_predicts_photographs_too(trained: Path, tmp_path: Path, lightning) -> None:
    picture_folder(tmp_path / "pictures", ["a", "b"], each=2)
    (tmp_path / "pictures" / "broken.png").write_text("text")
    predict = ("predict", "--ckpt_path", trained, "--data.cache_dir", "cache", "--images", "pictures")
    done = lightning(*predict)
    assert done.status == 1
    assert "pictures/broken.png: not an image of a known kind" in done.err
    assert lightning(*predict, "--data.broken", "skip").status == 0
    rows = Path("predictions.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"]
    assert {row.split(",")[1] for row in rows} <= set("0123456789")


@pytest.mark.parametrize(("place", "message"), [("nowhere", "there is no nowhere"), (".", ". holds no image (.jpg,")])
def test_missing_images_are_reported(trained: Path, lightning, place: str, message: str) -> None:
    done = lightning("predict", "--ckpt_path", trained, "--images", place)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"lightning predict: images: {message}")
