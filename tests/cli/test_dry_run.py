import re
import shutil
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN, ROOT, SMALL, picture_folder, start
from torch import nn

import resnet18
from resnet18.cli.dry_run import try_one_image
from resnet18.errors import UsageError
from resnet18.storage.checkpoints import read_checkpoint
from resnet18.storage.records import read_metrics

NETS = """
    import torch
    from torch import nn


    class Deep(nn.Sequential):
        def __init__(self, num_classes: int) -> None:
            super().__init__(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 9), nn.Flatten(), nn.Linear(8, num_classes))


    class Wide(nn.Sequential):
        def __init__(self, num_classes: int) -> None:
            super().__init__(nn.Flatten(), nn.Linear(64, num_classes + 1))


    class Twice(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.layer = nn.Linear(64, num_classes)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.layer(images.flatten(1))
            return logits, logits
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data.rgb", "true"), "model.backbone: ResNet does not fit images of 3×8×8: expected a batch of N×1×H×W"),
        (("--model.backbone", "mynet.Deep"), "model.backbone: Deep does not fit images of 1×8×8: Calculated padded"),
        (("--model.backbone", "mynet.Wide"), "Wide does not fit images of 1×8×8: it gives [1, 11], and not [1, 10]"),
        (("--model.backbone", "mynet.Twice"), "Twice does not fit images of 1×8×8: it gives tuple, and not [1, 10]"),
    ],
    ids=["channels", "size", "classes", "two outputs"],
)
def test_a_network_that_does_not_fit_the_images_is_named_before_anything_is_written(
    options: tuple[str, ...], message: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(textwrap.dedent(NETS))
    done = lightning("fit", "--config", CONFIG, *options)
    assert done.status == 2, done.out
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_grey_images_in_a_network_for_colour_are_refused(lightning, tmp_path: Path) -> None:
    picture_folder(tmp_path / "images" / "train")
    options = ("--data.channels", "1", "--data.cache_dir", "cache", "--data.batch_size", "4")
    done = lightning("fit", "--config", ROOT / "configs/imagefolder.yaml", *options)
    assert done.status == 2
    assert "ResNet does not fit images of 1×128×128" in done.err


def classifier(backbone: nn.Module) -> resnet18.Classifier:
    return resnet18.Classifier(backbone, torch.optim.SGD, num_classes=10, mean=[0.5], std=[0.5])


def test_the_model_is_left_as_it_was() -> None:
    backbone = resnet18.ResNet(num_classes=10, in_channels=1, width=8, stem="cifar")
    model = classifier(backbone)
    backbone.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    try_one_image(model, (1, 8, 8), torch.device("cpu"))
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_that_fails_on_the_cpu_has_a_second_chance_on_its_device() -> None:
    class DeviceOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.device.type == "cpu":
                raise RuntimeError("no CPU kernel")
            return self.layer(images.flatten(1))

    model = classifier(DeviceOnly())
    try_one_image(model, (1, 8, 8), torch.device("meta"))
    assert model.mean.device.type == "cpu"
    with pytest.raises(UsageError, match="DeviceOnly does not fit images of 1×8×8: no CPU kernel"):
        try_one_image(model, (1, 8, 8), torch.device("cpu"))


def test_the_shipped_network_fits(lightning) -> None:
    assert lightning("fit", "--config", CONFIG, *SMALL, "--trainer.fast_dev_run", 1).status == 0


MINE = """
from lightning.pytorch import Callback

class Mine(Callback):
    def __init__(self, monitor: str | None = None, mode: str = "min") -> None:
        self.monitor, self.mode = monitor, mode

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("val/mine", float(abs(trainer.current_epoch - 1)))  # 1, 0, 1
"""
PLATEAU = ("--model.schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau")
STOPPING = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--best.monitor", "val/loss", "--best.mode", "max"), "best.mode: max contradicts val/loss, of which less is"),
        ((*STOPPING, "val/top1", "--trainer.callbacks.mode", "min"), "callbacks[0].mode: min contradicts val/top1, of"),
        ((*PLATEAU, "--model.schedule.mode", "max"), "model.schedule.mode: max contradicts val/loss, of which less is"),
        ((*STOPPING, "lr"), "trainer.callbacks[0].mode: max or min must be given; what is better is known of val/loss"),
        (("--best.monitor", "val/mine"), "best.monitor: must be one of val/loss, val/top1, val/top5, train/loss, lr, "),
        (
            ("--trainer.callbacks", "mynet.Mine", "--best.monitor", "val/mine"),
            "best.mode: max or min must be given; what is better is known of val/loss, val/top1, val/top5, train/loss",
        ),
        (("--trainer.callbacks", "mynet.Mine", *STOPPING, "val/mine"), "trainer.callbacks[1].mode: max or min must be"),
        (
            ("--trainer.callbacks", "mynet.Mine", "--trainer.callbacks.monitor", "test/top1"),
            "trainer.callbacks[0].monitor: test/top1 would choose by the test images",
        ),
    ],
)
def test_a_direction_that_is_wrong_or_not_known_is_refused(
    options: tuple[str, ...], message: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + MINE)
    run = DROPOUT_RUN if PLATEAU[0] not in options else (*DROPOUT_RUN[:9], *DROPOUT_RUN[11:])
    done = lightning(*run, "--trainer.max_epochs", "1", *options)
    assert done.status == 2, done.out
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def modes(run: str) -> list[str]:
    """What the run's configuration says of the best epoch's, and then of every callback's, direction."""
    config = yaml.safe_load(Path(run, "config.yaml").read_text())
    callbacks = config["trainer"]["callbacks"] or []
    return [config["best"]["mode"], *(one["init_args"]["mode"] for one in callbacks)]


def test_the_epoch_of_the_lowest_loss_is_the_best_and_a_resumed_run_knows(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    options = (*DROPOUT_RUN, "--best.monitor", "val/loss", "--run_dir", "run")
    for more in ((*options, "--trainer.max_epochs", "1"), ("fit", "--ckpt_path", "run", "--trainer.max_epochs", "3")):
        done = lightning(*more)
        assert done.status == 0, done.err
        assert modes("run") == ["min"]
        rows = [row for row in read_metrics(Path("run")) if "val/loss" in row]
        lowest = min(rows, key=lambda row: row["val/loss"])
        assert read_checkpoint(Path("run/checkpoints/best.ckpt"))["global_step"] == lowest["step"] + 1
        said = f"best    val/loss {lowest['val/loss']:.4f}, in epoch {lowest['epoch'] + 1:.0f} of {len(rows)}"
        assert said in done.out
    assert max(rows, key=lambda row: row["val/loss"]) != lowest


def test_what_watches_a_metric_takes_its_direction(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + MINE)
    (tmp_path / "watch.yaml").write_text(
        """
        trainer:
          callbacks:
            - {class_path: EarlyStopping, init_args: {monitor: val/top1, patience: 2, stopping_threshold: 1.0}}
            - {class_path: EarlyStopping, init_args: {monitor: val/loss}}
            - {class_path: mynet.Mine, init_args: {monitor: val/top5}}
            - class_path: ModelCheckpoint
              init_args: {dirpath: mine, filename: one, monitor: val/top1, train_time_interval: "1:00:00"}
            - class_path: ModelCheckpoint
              init_args: {dirpath: mine, filename: two, monitor: val/mine, mode: min}
        """
    )
    done = lightning(*DROPOUT_RUN, "--config", "watch.yaml", "--trainer.max_epochs", "4", "--run_dir", "run")
    assert done.status == 0, done.err
    assert modes("run") == ["max", "max", "min", "max", "max", "min"]
    rows = [row for row in read_metrics(Path("run")) if "val/top1" in row]
    assert len(rows) == 4  # more of it does not end the run
    assert rows[0]["val/top1"] < rows[-1]["val/top1"]
    assert read_checkpoint(Path("mine/two.ckpt"))["epoch"] == 1
    done = lightning("fit", "--config", "run/config.yaml", "--run_dir", "again", "--trainer.max_epochs", "1")
    assert done.status == 0, done.err
    assert modes("again") == modes("run")


def test_a_callbacks_metric_chooses_the_epoch_and_one_that_is_not_there_is_named(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + MINE)
    options = (*DROPOUT_RUN, "--trainer.callbacks", "mynet.Mine", "--best.mode", "min", "--trainer.max_epochs", "3")
    done = lightning(*options, "--best.monitor", "val/mine")
    assert done.status == 0, done.err
    assert "best    val/mine 0.0000, in epoch 2 of 3" in done.out
    done = lightning(*options, "--best.monitor", "val/mien")
    assert done.status == 1
    missing = "BestCheckpoint watches val/mien, which nothing has logged in the validation; did you mean val/mine?"
    assert done.err == f"lightning fit: {missing}\n"


def test_a_metric_added_to_the_models_own_is_logged_shown_and_watched(tmp_path: Path) -> None:
    package = shutil.copytree(ROOT / "resnet18", tmp_path / "resnet18")
    code = (package / "classifier.py").read_text()
    added = code.replace(
        "        collection = MetricCollection(",
        "        from torchmetrics.classification import MulticlassF1Score\n\n"
        '        scores["f1"] = MulticlassF1Score(num_classes)\n'
        "        collection = MetricCollection(",
    )
    assert added != code
    (package / "classifier.py").write_text(added)
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    options = (*STOPPING, "val/f1", "--best.monitor", "val/f1", "--trainer.max_epochs", "2", "--run_dir", "run")
    process = start([*DROPOUT_RUN, *options], tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert modes(str(tmp_path / "run")) == ["max", "max"]
    logged = [row["val/f1"] for row in read_metrics(tmp_path / "run") if "val/f1" in row]
    assert re.findall(r"(?m)^epoch .*  val/f1 (\S+)", out) == [f"{value:.4f}" for value in logged]
    assert f"best    val/f1 {max(logged):.4f}, in epoch " in out
