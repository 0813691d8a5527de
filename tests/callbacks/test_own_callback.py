"""A callback of your own, in a file of your own: what it logs is kept, shown and can be monitored."""

import csv
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN

MINE = """
import torch
from lightning.pytorch import Callback

class GradMax(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        largest = [one.grad.abs().max() for one in pl_module.parameters() if one.grad is not None]
        pl_module.log("grad_max", torch.stack(largest).max())
"""
RUN = (*DROPOUT_RUN, "--trainer.max_epochs", "2", "--run_dir", "run", "--trainer.callbacks", "mycallbacks.GradMax")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mycallbacks", raising=False)
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "mycallbacks.py").write_text(MINE)


def test_its_metric_is_in_the_file_on_the_line_and_chooses_the_best_epoch(lightning) -> None:
    stopping = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "grad_max")
    stopping += ("--trainer.callbacks.mode", "min", "--trainer.callbacks.patience", "9")
    done = lightning(*RUN, *stopping, "--best.monitor", "grad_max", "--best.mode", "min")
    assert done.status == 0, done.err
    with Path("run", "metrics.csv").open() as file:
        norms = [float(row["grad_max"]) for row in csv.DictReader(file) if row["grad_max"]]
    assert len(norms) == 8  # 2 epochs of 20 steps, logged every 5
    assert all(norm > 0 for norm in norms)
    lines = re.findall(r"(?m)^epoch [12]/2  loss .*  grad_max (\d+\.\d{4})\b", done.out)
    assert len(lines) == 2
    assert re.search(r"(?m)^best    grad_max \d+\.\d{4}, in epoch [12] of 2$", done.out)
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == lines.index(min(lines))
    assert Path("run", "code", "mycallbacks.py").read_text() == MINE  # what the run was made with


def test_its_metric_needs_a_direction_to_be_monitored(lightning) -> None:
    done = lightning(*RUN, "--best.monitor", "grad_max")
    assert done.status == 2
    assert "best.mode: max or min must be given; what is better is known of val/loss" in done.err
    assert not Path("run").exists()
