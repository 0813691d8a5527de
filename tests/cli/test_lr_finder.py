"""LearningRateFinder: the run equals one with the rate found."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import DROPOUT_NET, DROPOUT_RUN
from killed_runs import differences

from resnet18.storage.checkpoints import read_checkpoint

FINDER = ("--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps", "40")
RUN = (*DROPOUT_RUN, "--trainer.max_epochs", "1", "--trainer.callbacks+=mynet.Own")
OWN = "\nfrom lightning.pytorch import Callback\nclass Own(Callback): pass\n"


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + OWN)


def test_the_run_equals_one_that_was_given_the_rate(lightning, tmp_path: Path) -> None:
    done = lightning(*RUN, *FINDER, "--run_dir", "found")
    assert done.status == 0, done.err
    (rate,) = re.findall(r"LearningRateFinder: .* --model.optimizer.lr (\S+)\n", done.out)
    assert 1e-4 < float(rate) < 1
    assert lightning(*RUN, "--model.optimizer.lr", rate, "--run_dir", "given").status == 0
    found, given = tmp_path / "found", tmp_path / "given"
    assert differences(given, found) == []
    config = yaml.safe_load((found / "config.yaml").read_text())
    assert config == yaml.safe_load((given / "config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == float(rate)
    for name in ("best", "last"):
        checkpoint = read_checkpoint(found / "checkpoints" / f"{name}.ckpt")
        assert checkpoint["hyper_parameters"]["optimizer"]["init_args"]["lr"] == float(rate)
    assert {path.name for path in tmp_path.iterdir() if path.name != "__pycache__"} == {"found", "given", "mynet.py"}
    assert sorted(path.name for path in found.rglob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.schedule", "OneCycleLR", "--model.schedule.max_lr", "0.1"), "search with --model.schedule null"),
        (("--model.backbone_lr_scale", "0.1"), "search with --model.backbone_lr_scale 1"),
        (("--trainer.devices", "2", "--trainer.accelerator", "cpu"), "give --trainer.devices 1, and then"),
        (("--trainer.callbacks.num_training_steps", "8"), "the losses of 8 steps are too few"),
    ],
)
def test_a_rate_that_the_run_could_not_use_is_refused(options, words: str, lightning, tmp_path: Path) -> None:
    done = lightning(*RUN, *FINDER, *options)
    assert (done.status in (1, 2), words in done.err.splitlines()[-1]) == (True, True), done.err
    assert not (tmp_path / "runs").exists()


def test_a_warning_is_printed_once(lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet18.cli.program.emulation_warning", lambda *_: "bf16 is emulated")
    done = lightning(*RUN, *FINDER)
    assert (done.status, done.err.count("bf16 is emulated")) == (0, 1), done.err


def test_a_resumed_run_keeps_its_rate(lightning, tmp_path: Path) -> None:
    assert lightning(*RUN, "--run_dir", "run").status == 0
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2", *FINDER)
    assert (done.status, "a resumed run keeps its learning rate" in done.err) == (2, True), done.err
