"""Every callback that ships with Lightning, through the real program: it does its work, or is refused in a sentence."""

import copy
import csv
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN, SMALL
from killed_runs import differences
from lightning.pytorch import Callback, callbacks

from resnet18.cli.trainer_parts import REFUSED
from resnet18.storage.checkpoint_io import BackgroundFiles
from resnet18.storage.checkpoints import read_checkpoint

TINY = (
    *("fit", "--config", CONFIG, *SMALL, "--data.eval_batch_size", "64", "--run_dir", "run"),
    *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1", "--trainer.log_every_n_steps", "1", "--trainer.logger", "false"),
)
SHIPPED = sorted(name for name, kind in inspect.getmembers(callbacks, inspect.isclass) if issubclass(kind, Callback))
WORKING: dict[str, dict[str, object]] = {
    "DeviceStatsMonitor": {},
    "EMAWeightAveraging": {"decay": 0.5},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": "{0: 1, 1: 3}"},
    "LearningRateFinder": {"num_training_steps": 20},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"filename": "mine"},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "ModelSummary": {},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "SpikeDetection": {},
    "TQDMProgressBar": {},
    "Timer": {"duration": "00:00:10:00"},
    "WeightAveraging": {},
}
"""Those that work, each with an argument that it needs, or that shows more than its default."""


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def logs_the_device(done, run: Path) -> None:
    assert any("cpu_percent" in name for name in rows(run)[0])


def saves_the_average(done, run: Path) -> None:
    saved, best = (read_checkpoint(run / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    weight = "backbone.fc.weight"
    assert not torch.equal(saved["state_dict"][weight], saved["current_model_state"][weight])
    assert not {"current_model_state", "averaging_state"} & best.keys()
    if best["global_step"] == saved["global_step"]:
        assert torch.equal(best["state_dict"][weight], saved["state_dict"][weight])


def accumulates(done, run: Path) -> None:
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert float([row["lr"] for row in rows(run) if row["lr"]][-1]) < 1e-3  # the schedule knew, and came down


def logs_rates(done, run: Path) -> None:
    assert {"lr-AdamW/pg1", "lr-AdamW/pg2"} <= rows(run)[0].keys()


def prunes(done, run: Path) -> None:
    weights = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert not any(name.endswith("_mask") for name in weights)
    pruned = torch.cat([one.flatten() for name, one in weights.items() if name.endswith("weight")])
    assert 0.7 < float((pruned == 0).float().mean()) < 0.8  # half, and half of the rest
    written = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert written[0]["init_args"]["pruning_fn"] == "l1_unstructured"


def sums_up(done, run: Path) -> None:
    assert "Trainable params" in done.out


WORK = {
    "DeviceStatsMonitor": logs_the_device,
    "EMAWeightAveraging": saves_the_average,
    "GradientAccumulationScheduler": accumulates,
    "LearningRateMonitor": logs_rates,
    "ModelPruning": prunes,
    "RichModelSummary": sums_up,
}
"""What shows that some of them did it."""


@pytest.mark.parametrize("name", SHIPPED)
def test_it_works_or_is_refused_in_a_sentence(name: str, lightning, tmp_path: Path) -> None:
    assert (name in WORKING) != (name in REFUSED), "a callback that nobody has tried"
    if name in REFUSED:
        done = lightning(*TINY, f"--trainer.callbacks+={name}")
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert f"trainer.callbacks: {name} can't be used: {REFUSED[name]}" in done.err
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": name}]}}))
        done = lightning(*TINY, "--config", tmp_path / "mine.yaml")
        assert f"mine.yaml: trainer.callbacks: {name} can't be used: " in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
        return
    argument = [part for key, value in WORKING[name].items() for part in (f"--trainer.callbacks.{key}", value)]
    more = ("--model.channels_last", "false") if name == "ModelPruning" else ()
    done = lightning(*TINY, "--trainer.callbacks", name, *argument, *more)
    assert done.status == 0, done.err
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {"config.yaml", "provenance.json", "metrics.csv", "checkpoints"}
    extra = {"mine.ckpt"} if name == "ModelCheckpoint" else set()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", *extra}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    if name in WORK:
        WORK[name](done, run)
    test = lightning("test", "--ckpt_path", "run")
    assert (test.status, "test/top1" in test.out) == (0, True), test.err
    resumed = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "3")
    if name == "ModelPruning":
        assert (resumed.status, "ModelPruning keeps no masks" in resumed.err) == (2, True)
    else:
        assert resumed.status == 0, resumed.err
        assert len([row for row in rows(run) if row["val/top1"]]) == 3


STOPPER = """
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Stop(Callback):
    # SIGTERM, once: after step `at`, or in the validation that follows it.
    def __init__(self, at: int, validating: bool = False) -> None:
        self.at, self.validating = at, validating
    def stop(self, trainer):
        if trainer.global_step == self.at and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)
    def on_train_batch_end(self, trainer, *args):
        if not self.validating: self.stop(trainer)
    def on_validation_batch_start(self, trainer, *args):
        if self.validating: self.stop(trainer)
"""


@pytest.mark.parametrize(
    ("callback", "at", "validating"),
    [
        ("{class_path: WeightAveraging}", 27, False),
        ("{class_path: EMAWeightAveraging, init_args: {decay: 0.9}}", 40, True),
        ("{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 1, 1: 2}}}", 24, False),
    ],
)
def test_its_run_goes_on_exactly(callback: str, at: int, validating: bool, lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + STOPPER)
    stop = f"{{class_path: mynet.Stop, init_args: {{at: {at}, validating: {validating}}}}}"
    run = (*DROPOUT_RUN, "--trainer.max_epochs", "3", "--trainer.callbacks", f"[{callback}, {stop}]", "--run_dir")
    (tmp_path / "stopped").touch()
    assert lightning(*run, "unbroken").status == 0
    (tmp_path / "stopped").unlink()
    done = lightning(*run, "run")
    assert (done.status, "stopped by SIGTERM" in done.err) == (143, True), done.err
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert differences(tmp_path / "unbroken", tmp_path / "run") == []


@pytest.mark.parametrize(
    "options",
    [
        ("EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"),
        ("ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured", "--model.channels_last", "false"),
    ],
)
def test_best_weights_are_those_that_were_validated(options: tuple[str, ...], lightning, tmp_path: Path) -> None:
    assert lightning(*TINY, "--trainer.callbacks", *options, "--trainer.limit_train_batches", "1.0").status == 0
    scored = [float(row["val/loss"]) for row in rows(tmp_path / "run") if row["val/loss"]]
    best = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    done = lightning("validate", "--ckpt_path", "run")
    assert f"val/loss {scored[best['epoch']]:.4f}" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("WeightAveraging", "--model.ema", "0.9"), "WeightAveraging and model.ema both change the weights"),
        (("ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured"), "--model.channels_last false"),
        (("ModelCheckpoint", "--trainer.callbacks.save_last", "true"), "the run writes its own last.ckpt"),
        (("ModelCheckpoint", "--trainer.callbacks.filename", "best"), "best.ckpt is the run's own"),
    ],
)
def test_what_does_not_go_together_is_refused(options: tuple[str, ...], words: str, lightning, tmp_path: Path) -> None:
    done = lightning(*TINY, "--trainer.callbacks", *options)
    assert (done.status, words in done.err) == (2, True), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_spike_ends_the_run_in_a_sentence(lightning, tmp_path: Path) -> None:
    done = lightning(*TINY, "--trainer.callbacks", "SpikeDetection", "--trainer.callbacks.rtol", "1e-6")
    assert (done.status, done.err.splitlines()[-1]) == (1, "lightning fit: Training spike detected in batch 1")
    assert (tmp_path / "run" / "skip_batches.json").exists()


def test_copies_of_the_module_and_of_its_writer(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        "import copy, gc\n"
        "from lightning.pytorch import Callback, Trainer\n"
        "def trainers():\n"
        "    return sum(isinstance(one, Trainer) for one in gc.get_objects())\n"
        "class Copy(Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        before = trainers()\n"
        "        assert copy.deepcopy(module).backbone is not module.backbone\n"
        "        assert trainers() == before\n"
        "        copy.deepcopy(trainer.strategy.checkpoint_io)\n"
    )
    assert lightning(*TINY, "--trainer.callbacks", "mynet.Copy").status == 0
    writer = BackgroundFiles()
    writer.save_checkpoint({"number": 1}, tmp_path / "one.ckpt")
    copied = copy.deepcopy(writer)
    copied.save_checkpoint({"number": 2}, tmp_path / "two.ckpt")
    writer.teardown()
    copied.teardown()
    assert [read_checkpoint(tmp_path / f"{name}.ckpt")["number"] for name in ("one", "two")] == [1, 2]
