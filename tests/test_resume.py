"""Runs that are killed, stopped, or spread over ranks, through the real program."""

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import start

NET = """
import torch
from torch import nn

class WithDropout(nn.Module):
    # Small and quick, with everything that a resume can get wrong: norm statistics, dropout, momentum.
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
"""
RUN = (
    *("fit", "--model.backbone", "mynet.WithDropout", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1"),
    *("--model.optimizer.momentum", "0.9", "--model.schedule", "resnet18.schedules.WarmupCosine", "--data", "Digits"),
    *("--trainer.max_epochs", "4", "--trainer.log_every_n_steps", "5", "--trainer.logger", "false"),
    *("--last.every_n_steps", "7", "--run_dir", "run"),
)


def last(directory: Path) -> dict:
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def metrics(directory: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((directory / "metrics.csv").open()))
    return [{name: cell for name, cell in row.items() if name != "images_per_s"} for row in rows]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unbroken")
    (place / "mynet.py").write_text(NET)
    process = start(RUN, place)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return place / "run"


def stop_at(process: subprocess.Popen[str], directory: Path, step: int, signum: int) -> None:
    """Sends a signal once the run has logged a step."""
    limit = time.monotonic() + 100
    while time.monotonic() < limit and process.poll() is None:
        path = directory / "metrics.csv"
        if path.exists() and any(row["step"] and int(row["step"]) >= step for row in csv.DictReader(path.open())):
            process.send_signal(signum)
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()}")


def assert_as_unbroken(directory: Path, unbroken: Path) -> None:
    whole, resumed = last(unbroken), last(directory)
    assert resumed["global_step"] == whole["global_step"] == 80
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    before, after = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, resumed))
    assert all(torch.equal(before[key]["momentum_buffer"], after[key]["momentum_buffer"]) for key in before)
    assert metrics(directory) == metrics(unbroken)  # every row, none missing and none twice


SLOWED = NET.replace("return self.fc", "import time; time.sleep(0.01)\n        return self.fc")


@pytest.mark.parametrize("step", [9, 34])
def test_a_killed_run_goes_on_bit_for_bit(step: int, lightning, tmp_path: Path, unbroken: Path) -> None:
    (tmp_path / "mynet.py").write_text(SLOWED)
    process = start(RUN, tmp_path)
    stop_at(process, tmp_path / "run", step, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    reached = last(tmp_path / "run")["global_step"]
    assert 0 < reached < 80
    (tmp_path / "mynet.py").write_text(NET)
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert_as_unbroken(tmp_path / "run", unbroken)
    assert not list(tmp_path.glob("runs*"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_how_and_goes_on(signum: int, lightning, tmp_path: Path, unbroken: Path) -> None:
    (tmp_path / "mynet.py").write_text(SLOWED)
    process = start([*RUN, "--last.every_n_steps", "1000"], tmp_path)
    stop_at(process, tmp_path / "run", 24, signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    name = signal.Signals(signum).name
    assert f"stopped by {name}; go on with: python -m resnet18 fit --ckpt_path run/checkpoints/last.ckpt" in err
    assert "Traceback" not in err
    assert 25 <= last(tmp_path / "run")["global_step"] < 80
    (tmp_path / "mynet.py").write_text(NET)
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert_as_unbroken(tmp_path / "run", unbroken)


def test_a_resumed_run_keeps_its_wandb_run(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(NET)
    options = [argument for argument in RUN if argument not in ("--trainer.logger", "false")]
    assert lightning(*options, "--trainer.max_epochs", "1").status == 0
    assert lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2").status == 0
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert {file.name for part in parts for file in part.glob("*.wandb")} == {"run-run.wandb"}  # one id
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
