"""Sources of files through the real program and by hand: both feeds, what is broken, what is refused."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, picture, picture_folder, start

import resnet18
from resnet18 import Files, ImageFolder, ImageTensors
from resnet18.data.feeds.streamed import StreamedEvaluationLoader, StreamedTrainLoader
from resnet18.errors import RunError
from resnet18.storage.checkpoints import read_checkpoint

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
def test_a_folder_is_trained_tested_and_predicted_on(images: Path, lightning, options: tuple[str, ...]) -> None:
    done = lightning(*TINY, *options, "--trainer.max_epochs", 2)
    assert done.status == 0, done.err
    assert "20 images to train, 2 to validate, 2 classes" in done.out
    expected = "streamed feed, 2 workers: as asked" if options else "resident feed: 22 files decoded once to 3×32×32"
    assert f"\n{expected}" in done.out
    tested = lightning("test", "--ckpt_path", "runs/imagefolder/latest")
    assert tested.status == 0, tested.err
    assert lightning("predict", "--ckpt_path", "runs/imagefolder/latest").status == 0
    rows = Path("predictions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [
        f"{name}/{number}.jpg" for name in ("a dog", "cat") for number in range(3)
    ]
    run = resnet18.load_run("runs/imagefolder/latest")
    assert run.model.class_names == ["a dog", "cat"]
    assert run.model.input_size == (3, 32, 32)
    assert (run.model.eval_share, run.model.interpolation) == (1.0, "bilinear")


STOP = """
    import signal

    from lightning.pytorch import Callback


    class Stop(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            if trainer.global_step == 7:
                signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize("options", [(), STREAMED], ids=["resident", "streamed"])
def test_a_resumed_run_ends_like_an_uninterrupted_one(images: Path, lightning, options: tuple[str, ...]) -> None:
    Path("mynet.py").write_text(textwrap.dedent(STOP))
    weights = []
    for name in ("whole", "broken"):
        stop = ("--trainer.callbacks+", "mynet.Stop") if name == "broken" else ()
        done = lightning(*TINY, *options, "--run_dir", name, "--trainer.max_epochs", 2, *stop)
        assert done.status == (143 if stop else 0), done.err
        if stop:
            done = lightning("fit", "--ckpt_path", name, *(("--data.num_workers", 0) if options else ()))
            assert done.status == 0, done.err
        weights.append(read_checkpoint(Path(name, "checkpoints", "last.ckpt"))["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_other_images_than_those_trained_on_are_not_scored(images: Path, lightning) -> None:
    assert lightning(*TINY, "--trainer.max_epochs", 1).status == 0
    before = resnet18.load_run("runs/imagefolder/latest").data.split_hash
    (images / "train/cat/3.jpg").rename(images / "train/cat/30.jpg")
    after = resnet18.load_run("runs/imagefolder/latest").data.split_hash
    assert before != after
    for command in ("validate", "test"):
        done = lightning(command, "--ckpt_path", "runs/imagefolder/latest")
        assert (done.status, len(done.err.splitlines())) == (1, 1)
        assert f"the checkpoint's split_hash is {before}, that of these data {after}" in done.err


def test_other_classes_than_those_trained_on_are_not_scored(images: Path, lightning) -> None:
    assert lightning(*TINY, "--trainer.max_epochs", 1).status == 0
    for part in ("train", "test"):
        (images / part / "cat").rename(images / part / "cow")
    for command in ("validate", "test"):
        done = lightning(command, "--ckpt_path", "runs/imagefolder/latest")
        assert (done.status, len(done.err.splitlines())) == (1, 1)
        assert "; class 1 is cat there, cow here" in done.err
    for part in ("train", "test"):
        shutil.copytree(images / part / "cow", images / part / "sheep")
    done = lightning("test", "--ckpt_path", "runs/imagefolder/latest")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "the checkpoint's split_hash is " in done.err


def test_the_new_place_of_a_moved_folder_is_given(images: Path, lightning) -> None:
    assert lightning(*TINY, "--trainer.max_epochs", 1).status == 0
    images.rename(images.with_name("moved"))
    done = lightning("test", "--ckpt_path", "runs/imagefolder/latest")
    assert done.status == 2
    assert "data.root: there is no directory images; images/train/<class>/ with images is expected" in done.err
    assert lightning("test", "--ckpt_path", "runs/imagefolder/latest", "--data.root", "moved").status == 0


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--data.root", "nowhere"), 2, "data.root: there is no directory nowhere; nowhere/train/<class>/ with"),
        (("--data.feed", "residents"), 2, "data.feed"),
        (
            ("--data.feed", "resident", "--data.erasing", "0.5"),
            2,
            "data.feed: feed is resident, but policy and erasing",
        ),
        (("--data.translate", "3"), 2, "translate and crop exclude each other"),
        (("--data.workers", "3"), 2, "did you mean num_workers?"),
        (("--data.batch_size", "21"), 2, "data.batch_size: batch_size is 21, but there are 20 images to train on"),
        (("--data.crop", "[0.5]"), 2, "data.crop"),
    ],
)
def test_wrong_options_of_a_folder_are_reported_in_a_line(
    images: Path, lightning, options: tuple[str, ...], status: int, message: str
) -> None:
    done = lightning(*TINY, *options)
    assert done.status == status
    assert message in done.err
    assert len(done.err.splitlines()) <= 3
    assert not Path("runs").exists()


def test_broken_files_are_listed_before_anything_is_trained(images: Path, lightning) -> None:
    (images / "train/cat/0.jpg").write_bytes(b"")
    (images / "train/a dog/ü b.png").write_text("text")
    for options in ((), ("--data.feed", "streamed")):
        done = lightning(*TINY, *options)
        assert done.status == 1
        assert done.err.splitlines() == [
            "lightning fit: data: 2 image files can't be read",
            "  images/train/a dog/ü b.png: not an image of a known kind",
            "  images/train/cat/0.jpg: the file is empty",
            "Remove them, or leave them out with --data.broken skip",
        ]
        assert not Path("runs").exists()
    done = lightning(*TINY, "--data.broken", "skip", "--trainer.max_epochs", 1)
    assert done.status == 0
    assert "left out because they can't be read: 2 image files" in done.err
    assert "19 images to train, 2 to validate" in done.out


OWN = """
    from pathlib import Path

    import torch
    from resnet18 import Files, ImageFiles


    class Listed(ImageFiles):
        '''Images named in a table: a line is a path, a tab and a class.'''

        class_names = ("left", "right")

        def __init__(self, root: str, table: str = "train.tsv", **kwargs):
            super().__init__(**kwargs)
            self.root, self.table = Path(root), table

        def load(self, part):
            lines = (self.root / self.table.replace("train", part)).read_text().splitlines()
            names, classes = zip(*(line.split("\\t") for line in lines))
            return Files(self.root, names, torch.tensor([self.class_names.index(name) for name in classes]))
"""


def test_a_source_of_files_is_a_few_lines(tmp_path: Path, lightning) -> None:
    (tmp_path / "mydata.py").write_text(textwrap.dedent(OWN))
    (tmp_path / "pictures").mkdir()
    for part, count in (("train", 22), ("test", 4)):
        lines = []
        for number in range(count):
            picture(number).save(tmp_path / f"pictures/{part}{number}.png")
            lines.append(f"{part}{number}.png\t{('left', 'right')[number % 2]}")
        (tmp_path / f"pictures/{part}.tsv").write_text("\n".join(lines))
    config = yaml.safe_load((ROOT / "configs/imagefolder.yaml").read_text())
    settings = {"root": "pictures", "image_size": 32, "crop": [0.5, 1.0], "batch_size": 4, "cache_dir": "cache"}
    config["data"] = {"class_path": "mydata.Listed", "init_args": settings}
    config["model"]["backbone"]["init_args"]["width"] = 8
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    for feed in ("auto", "streamed"):
        options = ("--data.feed", feed, "--data.num_workers", 0, "--trainer.max_epochs", 1)
        done = lightning("fit", "--config", "mine.yaml", *options)
        assert done.status == 0, done.err
        assert "20 images to train, 2 to validate, 2 classes" in done.out
        assert lightning("predict", "--ckpt_path", "runs/mine/latest").status == 0
        assert [row.split(",")[0] for row in Path("predictions.csv").read_text().splitlines()[1:]] == [
            f"test{number}.png" for number in range(4)
        ]


def test_images_that_vanish_while_training_end_the_run_with_their_name(images: Path, lightning) -> None:
    Path("mynet.py").write_text(
        textwrap.dedent("""
        from pathlib import Path

        from lightning.pytorch import Callback


        class Vanish(Callback):
            def on_train_epoch_end(self, trainer, module):
                Path("images/train/cat/5.jpg").unlink()
        """)
    )
    options = ("--data.feed", "streamed", "--data.num_workers", 1, "--trainer.callbacks+", "mynet.Vanish")
    done = lightning(*TINY, *options, "--trainer.max_epochs", 3)
    assert done.status == 1
    assert "images/train/cat/5.jpg: no such file; it could be read when the run began" in done.err
    assert "Traceback" not in done.err


def test_two_ranks_share_one_decoding_and_count_every_image_once(images: Path, lightning) -> None:
    picture_folder(images / "train", ["emu"], each=4)
    ranks = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    settings = [*TINY, *STREAMED, "--data.batch_size", "2", "--data.val_share", "0.3", "--trainer.max_epochs", "2"]
    process = start([*settings, "--run_dir", "run", *ranks], images.parent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("streamed feed, 2 workers: as asked") == 1
    assert len(list((images.parent / "cache").glob("*.pt"))) == 1
    run = resnet18.load_run("run")
    run.data.setup("validate")
    val = run.data.val
    assert val is not None
    assert len(val) == 7  # odd: a padded sampler would count an image twice
    with torch.no_grad():
        right = sum(
            int((run.model(pixels).argmax(1) == labels).sum())
            for pixels, labels, _ in run.data.evaluation_dataloader("val")
        )
    best = max(run.curve("val/top1")[1])
    assert best == pytest.approx(right / 7)


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


def test_the_fingerprint_depends_on_the_names_and_not_on_the_augmentation(place: Path) -> None:
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
def test_arguments_the_resident_feed_lacks_are_streamed_with_the_reason(
    place: Path, settings: dict[str, Any], reason: str
) -> None:
    data = prepared(place, **settings)
    assert data.feed_note() == f"streamed feed, 0 workers: {reason}"
    assert len(list(data.train_dataloader())) == 4
    with pytest.raises(ValueError, match=f"feed is resident, but {reason}"):
        folder(place, feed="resident", **settings)


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
        assert lines[5] == "Remove them, or leave them out with --data.broken skip"


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
    assert "left out because they can't be read: 2 image files" in caplog.text
    written = {path: path.stat().st_mtime_ns for path in (place.parent / "cache").iterdir()}
    data = prepared(place, "test", feed=feed, broken="skip")
    assert len(data.image_ids()) == 7
    assert {path: path.stat().st_mtime_ns for path in (place.parent / "cache").iterdir()} == written
    prepared(place, "validate", feed=feed, broken="skip")


def test_wrong_test_images_are_refused_by_the_test_alone(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(place / "test/cat")
    assert prepared(place).train is not None
    reason = f"the parts should have the same classes: {place}/test lacks cat"
    assert f"the test images were not checked: data.root: {reason}" in caplog.text
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


def test_a_class_without_a_readable_image_is_named(place: Path) -> None:
    for number in range(10):
        (place / f"train/cat/{number}.jpg").write_bytes(b"")
    data = folder(place, broken="skip")
    with pytest.raises(RunError, match=r"there is no image to train on of the class cat$"):
        data.setup("fit")


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
