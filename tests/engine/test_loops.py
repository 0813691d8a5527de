"""Runs that resume with epochs of another length: allowed between epochs, refused in the middle of one."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN
from killed_runs import differences

from resnet18.storage.checkpoints import read_checkpoint

NO_SCHEDULE = (*DROPOUT_RUN[:9], *DROPOUT_RUN[11:])
TORCHS_CYCLE = ("--model.schedule", "torch.optim.lr_scheduler.OneCycleLR", "--model.schedule.max_lr", "0.1")
STOP = """
import signal
from lightning.pytorch import Callback

class Stop(Callback):
    # In the validation of the second epoch.
    def on_validation_batch_start(self, trainer, *arguments) -> None:
        if trainer.global_step == 20:
            signal.raise_signal(signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + STOP)


def last(run: str) -> dict:
    return read_checkpoint(Path(run, "checkpoints", "last.ckpt"))


def rows(run: str, metric: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row[metric]]


@pytest.mark.parametrize(
    ("before", "after", "steps", "schedule"),
    [("5", "1.0", 50, DROPOUT_RUN[9:11]), ("1.0", "5", 50, TORCHS_CYCLE)],
    ids=["longer", "shorter"],
)
def test_the_length_of_epochs_may_change_between_epochs(
    before: str, after: str, steps: int, schedule: tuple[str, ...], lightning
) -> None:
    options = (*NO_SCHEDULE, *schedule, "--trainer.limit_train_batches", before, "--trainer.max_epochs", "2")
    assert lightning(*options, "--run_dir", "run").status == 0
    done = lightning("fit", "--ckpt_path", "run", "--trainer.limit_train_batches", after, "--trainer.max_epochs", "4")
    assert done.status == 0, done.err
    assert last("run")["global_step"] == steps
    assert [row["epoch"] for row in rows("run", "val/loss")] == ["0", "1", "2", "3"]
    # The schedule ends with the run, neither before nor behind it.
    assert 0 <= float(rows("run", "lr")[-1]["lr"]) < 0.002


def test_the_length_of_an_epoch_may_not_change_in_its_middle(lightning) -> None:
    assert lightning(*NO_SCHEDULE, "--trainer.max_steps", "27", "--run_dir", "run").status == 0
    before = Path("run", "config.yaml").read_text()
    resume = ("fit", "--ckpt_path", "run", "--trainer.max_steps", "-1", "--trainer.max_epochs", "3")
    done = lightning(*resume, "--trainer.limit_train_batches", "0.5")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "has 7 of an epoch's 20 batches of 64 images behind it, and an epoch has 10 of 64 here" in done.err
    assert "keep trainer.devices, trainer.num_nodes, trainer.limit_train_batches and data.batch_size" in done.err
    assert Path("run", "config.yaml").read_text() == before


def test_a_checkpoint_without_its_epochs_length_resumes(lightning) -> None:
    assert lightning(*NO_SCHEDULE, "--trainer.max_epochs", "2", "--run_dir", "whole").status == 0
    assert lightning(*NO_SCHEDULE, "--trainer.max_steps", "27", "--run_dir", "run").status == 0
    content = last("run")
    del content["Digits"]["epoch"]
    torch.save(content, "run/checkpoints/last.ckpt")
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_steps", "-1", "--trainer.max_epochs", "2")
    assert done.status == 0, done.err
    weights = last("run")["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in last("whole")["state_dict"].items())


def test_an_epoch_that_lacks_only_its_validation_is_finished(lightning) -> None:
    stop = ("--trainer.callbacks", "mynet.Stop")
    halves = ("--trainer.limit_train_batches", "0.5", "--trainer.max_epochs", "3")
    assert lightning(*NO_SCHEDULE, *halves, "--run_dir", "run", *stop).status == 143
    shutil.copytree("run", "longer")
    for run, limit, steps in (("run", "0.5", 30), ("longer", "1.0", 40)):
        change = ("--trainer.limit_train_batches", limit, "--trainer.callbacks", "null")
        done = lightning("fit", "--ckpt_path", run, *change)
        assert done.status == 0, done.err
        assert last(run)["global_step"] == steps
        assert [row["epoch"] for row in rows(run, "val/loss")] == ["0", "1", "2"]
    assert rows("run", "val/loss")[1] == rows("longer", "val/loss")[1]


def test_two_epochs_by_max_steps_and_two_more_are_four(lightning) -> None:
    assert lightning(*NO_SCHEDULE, "--trainer.max_steps", "80", "--run_dir", "whole").status == 0
    assert lightning(*NO_SCHEDULE, "--trainer.max_steps", "40", "--run_dir", "halves").status == 0
    done = lightning("fit", "--ckpt_path", "halves", "--trainer.max_steps", "80")
    assert done.status == 0, done.err
    assert differences(Path("whole"), Path("halves")) == []
