"""Runs that a real signal stops, and that keep their directory and their W&B run."""

import csv
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DROPOUT_NET, DROPOUT_RUN, start, wandb_records
from killed_runs import differences

from resnet18.callbacks.training_log import MEASURED
from resnet18.storage.checkpoints import read_checkpoint

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
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # without a row that is being written
        if any(row["step"] and int(row["step"]) >= step for row in csv.DictReader(whole.splitlines())):
            process.send_signal(signum)
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()}")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_resumes(signum: int, lightning, tmp_path: Path, unbroken: Path) -> None:
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


def test_killed_runs_have_every_row_once_in_wandb(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(SLOWED)
    options = [argument for argument in RUN if argument not in ("--trainer.logger", "false")]
    often = ("--trainer.max_epochs", "12", "--trainer.log_every_n_steps", "1")  # 240 steps
    # W&B writes blocks of 32 kB. Killed first with nothing of it on the disk, then with rows beyond the checkpoint.
    starts = [
        ([*options, *often, "--last.every_n_steps", "5"], 12),
        (["fit", "--ckpt_path", "run", "--last.every_n_steps", "110"], 215),
    ]
    held: list[list[dict[str, Any]]] = []
    for arguments, step in starts:
        process = start(arguments, tmp_path)
        stop_at(process, tmp_path / "run", step, signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -9, err
        held.append(wandb_rows(tmp_path / "run", -1))
    assert held[0] == []
    assert max(row["trainer/global_step"] for row in held[1]) > 130
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] < 130
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    # What the kill has cut off in W&B's file is taken away, and nothing else: `wandb sync` would stop there.
    (ended,) = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-run.wandb"))[:1]
    assert ended.stat().st_size % 2**15
    assert wandb_rows(tmp_path / "run", 0) == held[1]
    logged = [row for part in range(2) for row in wandb_rows(tmp_path / "run", part)]
    assert "val/confusion._type" in logged.pop()  # the pictures at the end
    assert len(list((tmp_path / "run" / "wandb").glob("empty-*"))) == 1  # with which `wandb sync` would upload nothing
    written = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    best = [row["best/top1"] for row in written if row["best/top1"]]
    assert len(written) == 240 + 12 + len(best)
    assert 0 < len(best) == len({row["epoch"] for row in written if row["best/top1"]})
    assert len(logged) == len(written)
    for part in (tmp_path / "run" / "wandb").glob("offline-run-*"):
        (started,) = [record["run"] for record in wandb_records(part) if record["type"] == "run"]
        assert (started["run_id"], started["resume"]) == ("run", True)  # or a server would begin anew with each part
    for row, other in zip(logged, written, strict=True):  # all parts together, in order
        assert row["trainer/global_step"] == int(other["step"])
        values = {name: float(cell) for name, cell in other.items() if cell and name not in ("step", *MEASURED)}
        assert {name: row[name] for name in values} == pytest.approx(values, rel=1e-5)


def wandb_rows(run: Path, part: int) -> list[dict[str, Any]]:
    path = sorted((run / "wandb").glob("offline-run-*"))[part]
    return [record["history"]["item"] for record in wandb_records(path) if record["type"] == "history"]
