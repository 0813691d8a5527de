"""What watches a metric watches it the metric's own way."""

from pathlib import Path

import pytest
import yaml
from conftest import DROPOUT_NET, DROPOUT_RUN

from resnet18.storage.checkpoints import read_checkpoint
from resnet18.storage.records import read_metrics

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
        line = f"best    val/loss {lowest['val/loss']:.4f}, in epoch {lowest['epoch'] + 1:.0f} of {len(rows)}"
        assert line in done.out
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
