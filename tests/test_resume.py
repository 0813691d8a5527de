"""Runs that a real signal stops, and that keep their directory and their W&B run."""

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from conftest import DROPOUT_NET, DROPOUT_RUN, start
from kill_and_resume import differences

from resnet18.checkpoints import read_checkpoint

RUN = (*DROPOUT_RUN, "--trainer.max_epochs", "4", "--run_dir", "run")
SLOWED = DROPOUT_NET.replace("return self.fc", "import time; time.sleep(0.01)\n        return self.fc")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unbroken")
    (place / "mynet.py").write_text(DROPOUT_NET)
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


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_how_and_goes_on(signum: int, lightning, tmp_path: Path, unbroken: Path) -> None:
    (tmp_path / "mynet.py").write_text(SLOWED)
    process = start(RUN, tmp_path)
    stop_at(process, tmp_path / "run", 24, signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    name = signal.Signals(signum).name
    assert f"stopped by {name}; resume with: python -m resnet18 fit --ckpt_path run/checkpoints/last.ckpt" in err
    assert "Traceback" not in err
    assert 25 <= read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] < 80
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert differences(unbroken, tmp_path / "run") == []
    assert not list(tmp_path.glob("runs*"))


def test_a_resumed_run_keeps_its_wandb_run(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    options = [argument for argument in RUN if argument not in ("--trainer.logger", "false")]
    assert lightning(*options, "--trainer.max_epochs", "1").status == 0
    assert lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2").status == 0
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert {file.name for part in parts for file in part.glob("*.wandb")} == {"run-run.wandb"}  # one id
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
