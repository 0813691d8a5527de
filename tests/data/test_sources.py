"""Sources through the real program: folders resident and streamed, CIFAR's archives, and one of the user's own."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, archive_of, picture, picture_folder, start

import resnet18
from resnet18 import CIFAR10, CIFAR100, ImageTensors
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


STOP = """
    import signal

    from lightning.pytorch import Callback


    class Stop(Callback):
        def on_train_batch_end(self, trainer, *arguments):
            if trainer.global_step == 7:
                signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize("options", [(), STREAMED], ids=["resident", "streamed"])
def test_a_run_that_is_gone_on_with_ends_like_the_unbroken_one(
    images: Path, lightning, options: tuple[str, ...]
) -> None:
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


def test_a_folder_that_moved_is_named_anew(images: Path, lightning) -> None:
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
def test_what_is_wrong_with_a_folders_options_is_said_in_a_line(
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
            "Take them away, or leave them out with --data.broken skip",
        ]
        assert not Path("runs").exists()
    done = lightning(*TINY, "--data.broken", "skip", "--trainer.max_epochs", 1)
    assert done.status == 0
    assert "left out, for they can't be read: 2 image files" in done.err
    assert "19 images to train, 2 to validate" in done.out


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
def test_cifar_is_read_from_its_archive(source: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = archive_of(source, tmp_path, monkeypatch)
    data = source(root=str(tmp_path), val_share=0.5, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert isinstance(data.train, ImageTensors)
    assert isinstance(data.val, ImageTensors)
    assert isinstance(data.test, ImageTensors)
    assert len(data.train) == len(data.val) == len(images["train"]) // 2
    assert torch.equal(data.train.store.permute(0, 3, 1, 2), torch.from_numpy(images["train"]))
    assert torch.equal(data.test.images.permute(0, 3, 1, 2), torch.from_numpy(images["test"]))
    assert data.test.labels.tolist() == list(range(len(data.class_names)))
    assert data.num_classes == len(set(data.class_names)) == int(source.__name__.removeprefix("CIFAR"))
    batch, _ = next(iter(data.train_dataloader()))
    assert batch.shape == (4, 3, 32, 32)


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
def test_without_a_network_the_message_says_which_file_to_put_where(
    source: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    data = source(root=str(tmp_path / "data"))
    with pytest.raises(RunError) as error:
        data.prepare_data()
    name, place = source.__name__, tmp_path / "data"
    archive, message = source.archive, str(error.value)
    assert message.startswith(f"data.root: {name} is not in {place} and could not be downloaded (")
    assert f"Put {archive.filename} there, from {archive.url}, with the MD5 checksum {archive.tgz_md5}" in str(
        error.value
    )


def test_a_damaged_archive_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive_of(CIFAR10, tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut short")
    with pytest.raises(RunError, match=f"data.root: CIFAR10 is not in {tmp_path}, or not whole"):
        CIFAR10(root=str(tmp_path)).load("train")


def test_cifar10_trains_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightning) -> None:
    archive_of(CIFAR10, tmp_path / "data", monkeypatch)
    done = lightning(
        *("fit", "--config", ROOT / "configs/cifar10.yaml", "--model.backbone.width", 8, "--data.batch_size", 30),
        *("--trainer.max_epochs", 1, "--trainer.precision", "32-true"),
    )
    assert done.status == 0, done.err
    assert "90 images to train, 10 to validate, 10 classes" in done.out
    assert "resident feed, 0.3 MB" in done.out
    assert lightning("test", "--ckpt_path", "runs/cifar10/latest").status == 0


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


WRONG = """
    import torch
    from resnet18 import ImageDataModule, ImageTensors


    class Wrong(ImageDataModule):
        class_names, mean, std, input_size = ("a", "b"), [0.5], [0.25], (1, 8, 8)

        def load(self, part):
            images, labels = torch.zeros(20, 8, 8, 1, dtype=torch.uint8), torch.arange(20) % 2
            return ImageTensors({})
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("images, labels + 1", "gave the label 2; 2 class_names mean labels 0 to 1"),
        ("images, labels - 1", "gave the label -1; 2 class_names mean labels 0 to 1"),
        ("images, labels[:19]", "should give 20 labels, not 19"),
        ("images, labels.float()", "not torch.float32 of [20]; an image has one class here, its number; for several"),
        ("images, labels[:, None].expand(-1, 3)", "not torch.int64 of [20, 3]; an image has one class here"),
        (
            "images / 255, labels",
            "should give uint8 images of N×8×8×1, as input_size says, not torch.float32 of 20×8",
        ),
        ("images.permute(0, 3, 1, 2), labels", "as input_size says, not torch.uint8 of 20×1×8×8"),
        ("images[:0], labels[:0]", "gave no images"),
        ("images, labels * 0", "there is no image to train on of the class b"),
        ("images, labels, rows=labels[:3]", "should give 3 labels, not 20"),
    ],
)
def test_what_a_source_of_ones_own_gives_is_checked(tmp_path: Path, lightning, given: str, message: str) -> None:
    (tmp_path / "mydata.py").write_text(textwrap.dedent(WRONG.format(given)))
    done = lightning("fit", "--config", ROOT / "configs/digits.yaml", "--data", "mydata.Wrong")
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert not Path("runs").exists()


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


@pytest.mark.parametrize("options", [(), STREAMED], ids=["resident", "streamed"])
def test_images_nobody_labelled_are_predicted_like_test_images(
    images: Path, lightning, options: tuple[str, ...]
) -> None:
    assert lightning(*TINY, *options, "--data.eval_share", 0.8, "--trainer.max_epochs", 1).status == 0
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
def test_where_there_is_nothing_to_predict_it_is_said(trained: Path, lightning, place: str, message: str) -> None:
    done = lightning("predict", "--ckpt_path", trained, "--images", place)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"lightning predict: images: {message}")


@pytest.mark.parametrize(
    ("base", "given", "message"),
    [
        (
            "ImageDataModule",
            "Files('.', [], torch.zeros(0).long())",
            "ImageTensors, not Files; for Files, subclass ImageFiles",
        ),
        ("ImageDataModule", "torch.zeros(3)", "should give ImageTensors, not Tensor"),
        (
            "ImageFiles",
            "ImageTensors(torch.zeros(3, 8, 8, 1).byte(), torch.zeros(3).long())",
            "should give Files, not ImageTensors",
        ),
    ],
)
def test_the_base_of_a_source_fits_what_it_gives(
    tmp_path: Path, lightning, base: str, given: str, message: str
) -> None:
    source = f"""
        import torch
        from resnet18 import Files, ImageDataModule, ImageFiles, ImageTensors


        class Mixed({base}):
            class_names, mean, std, input_size = ("a", "b"), [0.5], [0.25], (1, 8, 8)

            def load(self, part):
                return {given}
    """
    (tmp_path / "mydata.py").write_text(textwrap.dedent(source))
    done = lightning("fit", "--config", ROOT / "configs/digits.yaml", "--data", "mydata.Mixed")
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
