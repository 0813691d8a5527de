import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DROPOUT_NET, DROPOUT_RUN, start, wandb_records

from resnet18.cli import children
from resnet18.commands import seeds
from resnet18.errors import UsageError
from resnet18.storage.records import append_evaluation, read_config, read_json, write_config, write_json

OPTIONS = (*DROPOUT_RUN[1:], "--trainer.max_epochs", "40", "--last.every_n_steps", "5")


@pytest.fixture
def make(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a group below ``runs/`` of copies of the trained run with test scores, as ``lightning seeds`` leaves it."""

    def group(name: str, tops: list[float], lr: float = 0.002) -> Path:
        for seed, top1 in enumerate(tops, 1):
            run = tmp_path / "runs" / name / f"seed-{seed}"
            shutil.copytree(trained, run, symlinks=True)
            config: dict[str, Any] = {**read_config(run), "seed_everything": seed}
            config["model"]["optimizer"]["init_args"]["lr"] = lr
            write_config(run, config)
            found = {"given": {}, "flip_tta": False, "test/loss": 0.1, "test/top1": top1}
            append_evaluation(run, "test", run / "checkpoints" / "best.ckpt", found)
        return Path("runs", name)

    return group


@pytest.fixture
def as_printed(trained: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The configuration of the trained run as ``fit --print_config`` gives it, without the 5 s that that takes."""
    config = read_config(trained)
    config |= {"run_dir": None, "ckpt_path": None, "experiment": None}
    config["trainer"]["precision"] = config["best"]["mode"] = None
    monkeypatch.setattr(seeds, "resolve", lambda options: config)
    return config


def test_a_seed_that_is_killed_is_resumed_and_tested(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    parent = start(["seeds", "--n", "1", "--first", "3", *OPTIONS], tmp_path)
    run = tmp_path / "runs" / "digits-seeds" / "seed-3"
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.1)
    os.kill(int(subprocess.check_output(["pgrep", "-P", str(parent.pid)])), signal.SIGKILL)  # as for want of memory
    out, err = parent.communicate()
    assert (parent.returncode, err) == (0, "")
    commands = [line for line in run.with_suffix(".log").read_text().splitlines() if line.startswith("$")]
    assert [command.partition(" resnet18 ")[2].split("=")[0] for command in commands] == [
        f"fit {' '.join(OPTIONS)} --seed_everything",
        f"fit --ckpt_path {run.relative_to(tmp_path)}",
        f"test --ckpt_path {run.relative_to(tmp_path)}",
    ]
    found = read_json(run.parent / "seeds.json")
    (one,) = found["per_seed"]
    assert (found["n"], found["metric"], found["ci95"]) == (1, "test/top1", None)
    assert (one["seed"], one["epochs"], one["state"]) == (3, 40, "finished")
    assert found["mean"] == one["test"]["test/top1"]
    assert found["command"].startswith("lightning seeds --n 1 --first 3 --model.backbone mynet.WithDropout")
    assert "There is no interval below 3 seeds." in out
    assert (run.parent / "report.html").exists()


def test_finished_seeds_are_summed_up_and_compared(lightning, make, as_printed, monkeypatch) -> None:
    monkeypatch.setattr(children, "_run", None)  # nothing is left to train
    make("fast", [0.9, 0.91, 0.93], lr=0.01)
    group = make("digits-seeds", [0.95, 0.97, 0.96])
    command = ("seeds", "--config", "configs/digits.yaml", "--n", 3, "--against", "fast")
    done = lightning(*command)
    assert (done.status, done.err) == (0, "")
    assert "mean      96.00 %  sd 1.00 %" in done.out
    assert "difference   +4.67 points  n 3" in done.out
    assert "sign flips   p = 0.2500, exact; 3 pairs can't give less than 0.25" in done.out
    found = read_json(group / "seeds.json")
    assert found["against"]["differences"] == {"model.optimizer.lr": [0.002, 0.01]}
    assert found["published"]["test/top1_difference"] == pytest.approx(0.14 / 3)
    (part,) = (group / "wandb").glob("offline-run-*")
    (started,) = [record["run"] for record in wandb_records(part) if record["type"] == "run"]
    assert (started["job_type"], started["run_group"]) == ("seeds", "digits-seeds")

    assert lightning(*command).status == 0  # the same numbers are not logged again
    again = lightning(*command, "--metric", "test/loss", "--against", "fast")
    assert again.status == 0
    assert read_json(group / "seeds.json")["mean"] == pytest.approx(0.1)
    assert read_json(group / "seeds.json")["wandb_id"] == found["wandb_id"]
    assert len([*(group / "wandb").glob("offline-run-*")]) == 2


def test_a_diverged_seed_is_named_and_ends_the_command_with_1(lightning, make, as_printed, monkeypatch) -> None:
    monkeypatch.setattr(children, "_run", None)
    group = make("digits-seeds", [0.95, 0.97])
    write_json(group / "seed-2" / "status.json", {"state": "diverged", "reason": "NaN", "seconds": 1, "began": 0})
    done = lightning("seeds", "--config", "digits.yaml", "--n", 2, "--trainer.logger", "false")
    assert done.status == 1
    assert done.err == "lightning seeds: seed-2 diverged, and the mean is that of the others\n"
    assert "seed 2    diverged" in done.out
    assert read_json(group / "seeds.json")["n"] == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--n", "0"], "--n: must be a whole number from 1, not 0"),
        (["--first=-1"], "--first: must be a whole number from 0, not -1"),
        (["--seed_everything=3"], "--seed_everything can't be given: --first and --n choose the seeds"),
        (["--run_dir", "x"], "--run_dir can't be given: --group names the directory below runs/"),
        (["--group", "../x"], "--group: must be a name without slashes or a dot at its start, not '../x'"),
        (
            ["--against", "digits-sees", "--group=x"],
            "--against: digits-sees is not below runs; did you mean digits-seeds?",
        ),
        (["--against", "digits-seeds"], "--against: digits-seeds is this group itself; --group NAME starts another"),
        (["--against", "digits", "--group", "x"], "--against: digits holds no runs of seeds"),
        (["--group", "digits"], "runs/digits holds runs that are not of seeds: one; --group NAME starts another group"),
        (
            ["--group", "fast"],
            "runs/fast holds runs of another configuration: model.optimizer.lr is 0.002 here and 0.01 there; "
            "--group NAME starts another group",
        ),
        (["--metric", "test/top2"], "--metric: these runs have no test/top2, but test/loss, test/top1, val/top1; did"),
    ],
)
def test_what_is_wrong_costs_a_line_and_trains_nothing(
    arguments: list[str], text: str, lightning, make, as_printed, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_run", None)
    make("fast", [0.9], lr=0.01)
    group = make("digits-seeds", [0.9])
    shutil.copytree(trained, "runs/digits/one", symlinks=True)
    done = lightning("seeds", "--config", "configs/digits.yaml", *arguments)
    assert done.status == 2
    assert done.err.startswith(f"lightning seeds: {text}")
    assert len(done.err.splitlines()) == 1
    assert not (group / "seeds.json").exists()


def test_what_fit_refuses_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        seeds.resolve(["--data", "Digits", "--trainer.max_epoch", "3"])
    assert str(caught.value) == "there is no option trainer.max_epoch; did you mean trainer.max_epochs?"
    assert not any(tmp_path.iterdir())
