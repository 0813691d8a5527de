"""When a run saves, and what it restores when it resumes."""

import csv
import shutil
import sys
from pathlib import Path

import pytest
from conftest import DROPOUT_NET, DROPOUT_RUN
from killed_runs import differences

from resnet18.storage.checkpoints import read_checkpoint

EARLY = (
    *("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/top1"),
    *("--trainer.callbacks.mode", "max", "--trainer.callbacks.patience", "1", "--trainer.callbacks.min_delta", "0.9"),
)
SAVES = """
from lightning.pytorch import Callback

class Saves(Callback):
    # Notes the step of every last.ckpt, and whether a validation had just been.
    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        with open("saves", "a") as file:
            file.write(f"{trainer.global_step} ")

class Cut(Callback):
    def on_train_batch_end(self, trainer, *arguments) -> None:
        trainer.should_stop = trainer.global_step == 33
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + SAVES)


def last(run: str) -> dict:
    return read_checkpoint(Path(run, "checkpoints", "last.ckpt"))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--last.every_n_steps", "7"], [7, 14, 21, 28, 35, 40]),
        (["--last.every_n_steps", "20"], [21, 40]),  # step 20 ends an epoch: the step after it saves
        (["--last.every_n_steps", "10", "--trainer.val_check_interval", "0.5"], [11, 21, 31, 40]),
        (["--last.every_n_steps", "1", "--trainer.accumulate_grad_batches", "4"], [1, 2, 3, 4, 6, 7, 8, 9, 10]),
        (["--last.every_n_minutes", "1e-9", "--trainer.log_every_n_steps", "0"], [*range(1, 20), *range(21, 41)]),
        ([], [40]),
    ],
    ids=["steps", "an epoch's last step", "a validation", "gradients in sums", "minutes", "by default"],
)
def test_it_saves_between_steps_with_nothing_pending(options: list[str], steps: list[int], lightning) -> None:
    done = lightning(
        *DROPOUT_RUN, *options, "--trainer.max_epochs", "2", "--run_dir", "run", "--trainer.callbacks", "mynet.Saves"
    )
    assert done.status == 0, done.err
    assert [int(step) for step in Path("saves").read_text().split()] == steps


def test_a_run_that_stopped_early_is_finished(lightning) -> None:
    done = lightning(*DROPOUT_RUN, *EARLY, "--trainer.max_epochs", "9", "--run_dir", "run")
    assert done.status == 0, done.err
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0
    assert "this run is finished: EarlyStopping ended it after 2 epochs; --init_from run would" in done.out


def test_early_stopping_resumes_its_count(lightning) -> None:
    options = (*DROPOUT_RUN, *EARLY, "--trainer.callbacks.patience", "3", "--trainer.max_epochs", "9")
    assert lightning(*options, "--run_dir", "whole").status == 0
    cut = ("--trainer.callbacks+", "mynet.Cut")  # as Trainer.max_time ends a run
    assert lightning(*options, "--run_dir", "cut", *cut).status == 0
    assert (last("cut")["global_step"], last("whole")["global_step"]) == (33, 80)
    done = lightning("fit", "--ckpt_path", "cut")
    assert done.status == 0, done.err
    rows = Path("cut", "metrics.csv").read_text().splitlines()
    rows = [row for row in rows if not row.startswith("1,32,")]  # on stopping it validated
    Path("cut", "metrics.csv").write_text("\n".join(rows))
    assert differences(Path("whole"), Path("cut")) == []


def test_an_epoch_cut_short_is_trained_to_its_end(lightning) -> None:
    options = (*DROPOUT_RUN[:9], *DROPOUT_RUN[11:], "--trainer.max_epochs", "3")  # without a schedule, of a length
    assert "--model.schedule" not in options
    assert lightning(*options, "--run_dir", "whole").status == 0
    assert lightning(*options, "--run_dir", "cut", "--trainer.max_steps", "27").status == 0
    assert last("cut")["global_step"] == 27
    done = lightning("fit", "--ckpt_path", "cut")
    assert "this run is finished: 27 of 27 steps; --trainer.max_steps 54 continues it" in done.out
    done = lightning("fit", "--ckpt_path", "cut", "--trainer.max_steps", "-1")
    assert done.status == 0, done.err
    assert differences(Path("whole"), Path("cut")) == []


def test_a_run_that_was_moved_keeps_its_best_epoch(lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*DROPOUT_RUN, "--best.monitor", "val/top1", "--trainer.max_epochs", "2")
    assert lightning(*options, "--run_dir", "run").status == 0
    best = (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes()
    state = next(state for name, state in last("run")["callbacks"].items() if name.startswith("BestCheckpoint"))
    assert 0 < state["best_model_score"] < 1
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "moved")
    broken = DROPOUT_NET.replace("return self.fc(", "return 0 * self.fc(")
    (tmp_path / "mynet.py").write_text(broken + SAVES)  # from now on every image looks alike
    monkeypatch.delitem(sys.modules, "mynet")
    done = lightning("fit", "--ckpt_path", "elsewhere/moved", "--trainer.max_epochs", "3")
    assert done.status == 0, done.err
    assert done.err == ""
    assert (tmp_path / "elsewhere" / "moved" / "checkpoints" / "best.ckpt").read_bytes() == best
    rows = [row for row in csv.DictReader((tmp_path / "elsewhere/moved/metrics.csv").open()) if row["val/top1"]]
    assert len(rows) == 3


@pytest.mark.parametrize("ema", ["0", "0.9"])
def test_two_epochs_and_two_more_are_four(ema: str, lightning) -> None:
    options = (*DROPOUT_RUN[:9], *DROPOUT_RUN[11:], "--model.ema", ema)  # without a schedule, of a length
    assert lightning(*options, "--trainer.max_epochs", "4", "--run_dir", "whole").status == 0
    assert lightning(*options, "--trainer.max_epochs", "2", "--run_dir", "halves").status == 0
    done = lightning("fit", "--ckpt_path", "halves", "--trainer.max_epochs", "4")
    assert done.status == 0, done.err
    assert differences(Path("whole"), Path("halves")) == []


@pytest.mark.parametrize("option", ["every_n_steps=0", "every_n_minutes=0", "every_n_minutes=.inf"])
def test_an_interval_must_be_positive_and_finite(option: str, lightning) -> None:
    done = lightning(*DROPOUT_RUN, f"--last.{option}", "--run_dir", "run")
    assert done.status == 2
    assert f"last.{option.partition('=')[0]}: " in done.err
    assert not Path("run").exists()
