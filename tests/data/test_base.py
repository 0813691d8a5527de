"""What a source may give: checked, and open for other tasks than classes."""

import importlib
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, picture_folder
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from resnet18 import CIFAR10, Digits, Files, ImageFiles, ImageFolder, ImageNet
from resnet18.data.base import Part
from resnet18.data.feeds.order import Shard
from resnet18.errors import RunError

WRONG = """
    import torch
    from resnet18 import Files, ImageDataModule, ImageFiles, ImageTensors


    class Wrong({base}):
        class_names, mean, std, input_size = ("a", "b"), [0.5], [0.25], (1, 8, 8)

        def load(self, part):
            images, labels = torch.zeros(20, 8, 8, 1, dtype=torch.uint8), torch.arange(20) % 2
            return {given}
"""


def refused(tmp_path: Path, lightning: Any, base: str, given: str, message: str) -> None:
    (tmp_path / "mydata.py").write_text(textwrap.dedent(WRONG.format(base=base, given=given)))
    done = lightning("fit", "--config", CONFIG, "--data", "mydata.Wrong")
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("images, labels + 1", "gave the label 2; 2 class_names mean labels 0 to 1"),
        ("images, labels - 1", "gave the label -1; 2 class_names mean labels 0 to 1"),
        ("images, labels[:19]", "should give 20 labels, not 19"),
        ("images, labels.int()", "should give 20 labels as int64, not torch.int32 of [20]"),
        ("images, labels.float()", "not torch.float32 of [20]; an image has one class here, its number; for several"),
        ("images, labels[:, None].expand(-1, 3)", "[20, 3]; an image has one class here"),
        ("images / 255, labels", "should give uint8 images of N×8×8×1, as input_size says, not torch.float32 of 20×8"),
        ("images.permute(0, 3, 1, 2), labels", "as input_size says, not torch.uint8 of 20×1×8×8"),
        ("images[:0], labels[:0]", "gave no images"),
        ("images, labels * 0", "there is no image to train on of the class b"),
        ("images, labels, rows=labels[:3]", "should give 3 labels, not 20"),
    ],
)
def test_what_a_source_gives_is_checked(tmp_path: Path, lightning, given: str, message: str) -> None:
    refused(tmp_path, lightning, "ImageDataModule", f"ImageTensors({given})", message)


@pytest.mark.parametrize(
    ("base", "given", "message"),
    [
        ("ImageDataModule", "Files('.', [], labels)", "ImageTensors, not Files; for Files, subclass ImageFiles"),
        ("ImageDataModule", "images", "should give ImageTensors, not Tensor"),
        ("ImageFiles", "ImageTensors(images, labels)", "should give Files, not ImageTensors"),
    ],
)
def test_the_base_of_a_source_fits_what_it_gives(
    tmp_path: Path, lightning, base: str, given: str, message: str
) -> None:
    refused(tmp_path, lightning, base, given, message)


@pytest.mark.parametrize(
    ("source", "key", "value"),
    [
        (Digits, "batch_size", 0),
        (Digits, "translate", -1),
        (Digits, "eval_batch_size", 0),
        (Digits, "cutout", -1),
        (Digits, "val_share", 0.0),
        (Digits, "val_share", 1.0),
        (Digits, "val_share", float("nan")),
        (ImageFolder, "image_size", 0),
        (ImageFolder, "eval_size", 0),
        (ImageFolder, "eval_share", 1.5),
        (ImageFolder, "first_size", 0),
        (ImageFolder, "growth", [0.5, 1.5]),
        (ImageFolder, "crop", [0.0, 1.0]),
        (ImageFolder, "crop", [0.5]),
        (ImageFolder, "magnitude", 31),
        (ImageFolder, "erasing", 2.0),
        (ImageFolder, "resident_limit_gb", -1.0),
        (ImageFolder, "num_workers", -1),
        (ImageFolder, "batch_size", 0),
        (CIFAR10, "val_share", 1.0),
        (CIFAR10, "translate", -1),
        (ImageNet, "image_size", 0),
        (ImageNet, "eval_share", 0.0),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(source: type, key: str, value: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(source, "data")
    required = {"root": "."} if issubclass(source, ImageFolder) else {}
    parser.parse_object({"data": required})
    with pytest.raises(ArgumentError, match=f"data.{key}"):
        parser.parse_object({"data": {**required, key: value}})


TAGS = """
    import torch
    from resnet18 import ImageDataModule, ImageTensors
    from resnet18.errors import RunError


    class Tags(ImageDataModule):  # any of three tags
        class_names, mean, std, input_size = ("red", "green", "blue"), [0.5], [0.25], (1, 4, 4)

        def load(self, part):
            images = torch.arange(40)[:, None].expand(40, 16).reshape(40, 4, 4, 1).to(torch.uint8)
            return ImageTensors(images, torch.arange(40)[:, None] // torch.tensor([1, 2, 4]) % 2 * 1.0)

        def check_targets(self, targets, name):
            if targets.shape[1:] != (3,):
                raise RunError(f"{name} should give a number for each tag")

        def strata(self, targets):
            return targets[:, 0].long()


    class Bits(Tags):
        def load(self, part):
            tags = super().load(part)
            return ImageTensors(tags.store, tags.labels.to(torch.uint8))

        def strata(self, targets):
            return torch.zeros(len(targets), dtype=torch.int64)


    class Angles(Bits):  # a value to predict
        class_names = ("angle",)

        def load(self, part):
            return ImageTensors(super().load(part).store, torch.linspace(0, 1, 40))

        def check_targets(self, targets, name):
            pass


    class NoStrata(Tags):
        def strata(self, targets):
            return targets
"""


@pytest.fixture
def tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "mytags.py").write_text(textwrap.dedent(TAGS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mytags", raising=False)
    return importlib.import_module("mytags")


def shown(loader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    batches = [batch[:2] for batch in loader]
    return torch.cat([images for images, _ in batches]), torch.cat([targets for _, targets in batches])


@pytest.mark.parametrize("name", ["Tags", "Bits"])
def test_an_image_may_have_several_labels(tags: Any, name: str) -> None:
    source = getattr(tags, name)
    data = source(batch_size=6, val_share=0.2)
    data.setup("fit")
    assert data.num_classes == 3
    whole = data.load("train").labels
    val_images, val_targets = shown(data.val_dataloader())
    train_images, train_targets = shown(data.train_dataloader())
    assert (val_targets.shape, train_targets.shape, train_targets.dtype) == ((8, 3), (30, 3), whole.dtype)
    for images, targets in ((val_images, val_targets), (train_images, train_targets)):
        assert torch.equal(targets, whole[images[:, 0, 0, 0].long()])  # an image's pixels are its number
    assert not {*val_images[:, 0, 0, 0].tolist()} & {*train_images[:, 0, 0, 0].tolist()}
    if name == "Tags":
        assert val_targets[:, 0].sum() == 4  # of each stratum the same share
    halves = [source(batch_size=6, val_share=0.2) for _ in range(2)]
    for rank, half in enumerate(halves):
        half.setup("fit")
        half._shard = lambda rank=rank: Shard(rank=rank, world_size=2)
    assert sum(len(shown(half.val_dataloader())[1]) for half in halves) == 8
    data.setup("test")
    assert torch.equal(shown(data.test_dataloader())[1], whole)


def test_a_checkpoint_recognises_such_data(tags: Any) -> None:
    data = tags.Tags(batch_size=6)
    state = data.state_dict()
    assert state["split_hash"] == data.split_hash == tags.Tags(batch_size=8, seed=3).split_hash
    tags.Tags(batch_size=6).load_state_dict(state)
    with pytest.raises(RunError, match="split_hash is"):
        tags.Tags(batch_size=6, split_seed=1).load_state_dict(state)
    with pytest.raises(RunError, match="class 0 is red there, angle here"):
        tags.Angles(batch_size=6).load_state_dict(state)


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 1)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        self.seen += targets.tolist()
        return (self.layer(images.flatten(1) / 255).squeeze(1) - targets).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_a_value_to_predict_is_trained_on_and_the_run_resumed(tags: Any, tmp_path: Path) -> None:
    def trained(max_epochs: int, ckpt_path: Path | None = None) -> tuple[Regression, Trainer]:
        quiet: dict[str, Any] = dict.fromkeys(["logger", "enable_progress_bar", "enable_checkpointing"], False)
        quiet |= {"accelerator": "cpu", "limit_val_batches": 0, "default_root_dir": tmp_path}
        torch.manual_seed(0)
        model, trainer = Regression(), Trainer(max_epochs=max_epochs, **quiet)
        trainer.fit(model, datamodule=tags.Angles(batch_size=6), ckpt_path=ckpt_path)
        return model, trainer

    whole, _ = trained(2)
    first, trainer = trained(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, _ = trained(2, tmp_path / "half.ckpt")
    assert whole.seen == first.seen + second.seen
    assert len(whole.seen) == 2 * 36
    assert torch.equal(whole.layer.weight, second.layer.weight)


def test_strata_of_a_wrong_type_are_refused(tags: Any) -> None:
    with pytest.raises(RunError, match=r"NoStrata.strata should give int64 of \[40\], not torch.float32 of \[40, 3\]"):
        tags.NoStrata().setup("fit")


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_image_files_may_have_other_targets_too(tmp_path: Path, feed: Any) -> None:
    picture_folder(tmp_path / "train", each=10)

    class Ages(ImageFiles):
        class_names, has_test = ("age",), False

        def load(self, part: Part) -> Files:
            names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("train/*/*.jpg"))
            return Files(tmp_path, names, torch.arange(20) + 0.5)

        def check_targets(self, targets: Tensor, name: str) -> None:
            assert targets.is_floating_point()

        def strata(self, targets: Tensor) -> Tensor:
            return (targets > 10).long()

    data = Ages(image_size=8, batch_size=6, feed=feed, num_workers=0, cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    (_, val_ages), (_, ages) = shown(data.val_dataloader()), shown(data.train_dataloader())
    assert sorted([*ages.tolist(), *val_ages.tolist()]) == [number + 0.5 for number in range(20)]
    assert (val_ages > 10).tolist() == [False, True]
