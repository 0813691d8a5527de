"""``lightning sweep``: trials as processes, continued after a kill; with runs made beforehand, all that may happen."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONFIG, ROOT, SMALL, start, wandb_records

from resnet18.commands import sweep
from resnet18.errors import RunError, UsageError
from resnet18.storage.overview import Overview, overview, run_directories
from resnet18.storage.records import read_json, write_json

SHIPPED = ROOT / "configs" / "sweeps" / "digits.yaml"
END = ["--config", "${args_json_file}"]
FAST = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4"]
GRID = {
    "method": "grid",
    "metric": {"name": "best/top1", "goal": "maximize"},
    "parameters": {"model.ema": {"values": [0.0, 0.9]}, "model.schedule": {"value": None}},
    "command": ["lightning", "fit", "--config", str(CONFIG), *SMALL, *FAST, *END],
}
TOP1 = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.4}  # of the trials that are not trained


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return path


def journal(tmp_path: Path, name: str = "mine-sweep") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "runs" / name / "sweep.jsonl").read_text().splitlines()]


def test_trials_are_trained_and_a_killed_sweep_continues(tmp_path: Path, lightning) -> None:
    write(tmp_path / "mine.yaml")
    killed = start(["sweep", "mine.yaml"], tmp_path)
    log = tmp_path / "runs" / "mine-sweep" / "trial-1.log"
    while not log.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()  # while the first trial starts, which goes on without it
    killed.communicate()

    done = lightning("sweep", "mine.yaml")
    assert done.status == 0, done.err
    assert log.read_text().count("fit --config") == 1
    asked, *lines = journal(tmp_path)
    assert [line["trial"] for line in lines] == [1, 1, 2, 2]
    assert asked["asked"]["seed"] == 1
    place = tmp_path / "runs" / "mine-sweep"
    runs = [overview(place / f"trial-{number}") for number in (1, 2)]
    assert [run.config["model"]["ema"] for run in runs] == [0.0, 0.9]
    assert [line["score"] for line in lines[1::2]] == [run.best for run in runs]
    assert not any(run.test for run in runs)
    assert run_directories(tmp_path / "runs") == [run.directory for run in runs]
    records = wandb_records(runs[1].directory / "wandb" / "latest-run")
    assert next(one["run"]["run_group"] for one in records if one["type"] == "run") == "mine-sweep"

    again = lightning("sweep", "mine.yaml")
    assert again.out.splitlines() == done.out.splitlines()[-4:]  # the table
    assert journal(tmp_path) == [asked, *lines]


@pytest.fixture
def fake(trained: Path, lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., None]]:
    """Instead of training, a trial copies a run; what is in this dictionary under a trial's name is called first."""
    before: dict[str, Callable[..., None]] = {}

    def train(group: Path, name: str, options: list[str], environment: Any, test: bool) -> Overview:
        run = group / name
        if name in before:
            before[name](run)
        if not run.exists():
            shutil.copytree(trained, run, ignore=shutil.ignore_patterns("wandb", "checkpoints"))
            value = TOP1[int(name.rpartition("-")[2])]
            rows = ["epoch,val/loss,val/top1", f"0,0.5,{value}", f"1,0.6,{value - 0.1}"]
            (run / "metrics.csv").write_text("\n".join(rows) + "\n")
            if test:
                config = (run / "config.yaml").read_text()
                seed = f"seed_everything: {options[-1].partition('=')[2]}\n"
                (run / "config.yaml").write_text(config.replace("seed_everything: 1\n", seed))
                line = {"command": "test", "test/top1": value - 0.05}
                (run / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
        (tmp_path / "trained.txt").open("a").write(f"{name} {' '.join(options)}\n")
        return overview(run)

    monkeypatch.setattr(sweep, "train", train)
    monkeypatch.setattr(sweep, "check_space", lambda _: None)
    return before


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "trained.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


WIDE = {"model.ema": {"values": [0.0, 0.9]}, "model.optimizer.init_args.lr": {"values": [0.1, 0.01]}}


def test_the_best_comes_first_in_a_table_and_is_repeated(fake, lightning, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", parameters=WIDE)
    done = lightning("sweep", "mine.yaml", "--repeat", "3")
    assert done.status == 0, done.err
    table, _, repeated = done.out.partition("trial ema")[2].partition("\n\n")
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["2", "0", "0.01", "70.00", "%", "2", *table.split()[-1:]],
        ["3", "0.9", "0.1", "60.00", "%", "2", *table.split()[-1:]],
        ["1", "0", "0.1", "50.00", "%", "2", *table.split()[-1:]],
        ["4", "0.9", "0.01", "40.00", "%", "2", *table.split()[-1:]],
    ]
    assert max(map(len, done.out.splitlines())) <= 80
    trials, seeds = calls(tmp_path)[:4], calls(tmp_path)
    assert seeds == []
    assert trials[1].startswith("trial-2 --config ")
    assert trials[1].endswith("--config runs/mine-sweep/trial-2.json")
    best = tmp_path / "runs" / "mine-sweep" / "repeat-trial-2"
    assert sorted(one.name for one in best.iterdir()) == ["seed-1", "seed-2", "seed-3", "seeds.json"]
    assert repeated.startswith("trial-2 with the seeds 1 to 3\n")
    assert "mean      55.00 %  sd 10.00 %" in repeated
    assert "30.16 to 79.84 %: 95 % interval of the mean, Student's t" in repeated
    assert read_json(best / "seeds.json")["mean"] == pytest.approx(0.55)


def test_count_may_grow_and_run_cap_is_kept(fake, lightning, tmp_path: Path) -> None:
    spec = {"model.ema": {"min": 0.0, "max": 0.9}}
    write(tmp_path / "mine.yaml", method="random", parameters=spec, run_cap=3)
    assert lightning("sweep", "mine.yaml", "--count", "1").status == 0
    assert lightning("sweep", "mine.yaml", "--count", "4").status == 0
    assert [line.split()[0] for line in calls(tmp_path)] == ["trial-1", "trial-2", "trial-3"]
    assert lightning("sweep", "mine.yaml", "--name", "other").status == 0
    assert journal(tmp_path, "other")[1:] == [{**line, **_minutes(line)} for line in journal(tmp_path)[1:]]


def _minutes(line: dict[str, Any]) -> dict[str, Any]:
    return {"minutes": line["minutes"]} if "minutes" in line else {}


def test_a_failed_or_diverged_trial_does_not_end_a_sweep_but_three_in_a_row_do(fake, lightning, tmp_path: Path) -> None:
    def fails(run: Path) -> None:
        raise RunError(f"{run.name} failed (exit status 1); the end of the log:\n  out of memory")

    def wrong(run: Path) -> None:
        raise UsageError(f"{run.name} failed (exit status 2)")

    write(tmp_path / "mine.yaml", parameters=WIDE)
    fake |= {"trial-1": fails, "trial-3": wrong}
    done = lightning("sweep", "mine.yaml", "--count", "3")
    assert done.status == 0, done.err
    assert "  out of memory" in done.out
    table = [line.split()[0] for line in done.out.splitlines()[-3:]]
    assert table == ["2", "1", "3"]
    assert [line["score"] for line in journal(tmp_path) if "state" in line] == [None, TOP1[2], None]

    fake |= {"trial-2": fails}
    done = lightning("sweep", "mine.yaml", "--name", "all", "--repeat", "2")
    assert done.status == 1
    assert "3 trials in a row failed" in done.err
    assert len(journal(tmp_path, "all")) == 7
    done = lightning("sweep", "mine.yaml", "--name", "all")  # what failed is not tried again, the rest is
    assert done.status == 0
    assert len(journal(tmp_path, "all")) == 9


def test_a_killed_trial_is_resumed_and_a_diverged_one_is_not(fake, lightning, tmp_path: Path, trained: Path) -> None:
    attempts: list[str] = []

    def left(run: Path, state: str) -> None:
        shutil.copytree(trained, run, dirs_exist_ok=True)
        write_json(run / "status.json", {**read_json(run / "status.json"), "state": state, "reason": "the loss is nan"})

    def killed(run: Path) -> None:
        attempts.append(run.name)
        if len(attempts) == 1:
            left(run, "stopped")
            raise RunError("trial-1 failed (killed by SIGKILL)")
        left(run, "finished")

    fake |= {"trial-1": killed, "trial-2": lambda run: left(run, "diverged")}
    write(tmp_path / "mine.yaml")
    done = lightning("sweep", "mine.yaml")
    assert done.status == 0, done.err
    assert attempts == ["trial-1", "trial-1"]
    assert [line["state"] for line in journal(tmp_path) if "state" in line] == ["finished", "diverged"]
    assert "the loss is nan" in done.out
    assert done.out.splitlines()[-1].split()[:3] == ["2", "0.9", "diverged"]


def test_a_run_without_the_metric_ends_the_sweep(fake, lightning, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", metric={"name": "val/f1", "goal": "maximize"})
    done = lightning("sweep", "mine.yaml")
    assert (done.status, done.err.splitlines()[-1]) == (
        1,
        f"lightning sweep: {tmp_path / 'runs' / 'mine-sweep' / 'trial-1'} logged no val/f1",
    )


def test_another_file_or_seed_is_refused_for_the_same_name(fake, lightning, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml")
    assert lightning("sweep", "mine.yaml", "--count", "1").status == 0
    done = lightning("sweep", "mine.yaml", "--seed", "2")
    assert done.status == 2
    assert "runs/mine-sweep is a sweep of another kind: seed: 1 → 2. --name NAME starts a new one" in done.err
    write(tmp_path / "mine.yaml", parameters={"model.ema": {"values": [0.0, 0.5]}})
    done = lightning("sweep", "mine.yaml")
    assert "parameters.model.ema.values: [0.0, 0.9] → [0.0, 0.5]" in done.err
    write(tmp_path / "mine.yaml", parameters={"model.ema": {"values": [0.0, 0.9]}})  # without a null
    assert "a sweep of another kind: parameters" in lightning("sweep", "mine.yaml").err
    assert len(calls(tmp_path)) == 1
    (tmp_path / "runs" / "taken").mkdir()
    (tmp_path / "runs" / "taken" / "file").touch()
    done = lightning("sweep", "mine.yaml", "--name", "taken")
    assert done.status == 1
    assert "runs/taken is not empty and holds no sweep.jsonl" in done.err


def test_a_torn_line_is_dropped_and_a_damaged_one_named(fake, lightning, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml")
    assert lightning("sweep", "mine.yaml").status == 0
    path = tmp_path / "runs" / "mine-sweep" / "sweep.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    calls(tmp_path)
    assert lightning("sweep", "mine.yaml").status == 0
    assert [line.split()[0] for line in calls(tmp_path)] == ["trial-2"]
    assert path.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"trial": \n', *lines[3:]]))
    done = lightning("sweep", "mine.yaml")
    assert done.status == 1
    assert 'sweep.jsonl, line 3 is damaged: {"trial":' in done.err


def test_wrong_options_are_refused(fake, lightning, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", method="random")
    for arguments, message in {
        ("mine.yaml", "--count", "0"): "--count: must be a whole number from 1, not 0",
        ("mine.yaml",): "--count: random draws without end",
        ("mine.yaml", "--cuont", "3"): "--cuont: there is no such option; did you mean --count?",
        ("mine.yaml", "--count", "1", "--name", "../x"): "--name: must be a name without slashes",
        ("mime.yaml", "--count", "1"): "there is no mime.yaml; did you mean mine.yaml?",
        (): "required: file",
    }.items():
        done = lightning("sweep", *arguments)
        assert done.status == 2
        assert message in done.err
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_the_shipped_file_says_how_to_run_it() -> None:
    header = SHIPPED.read_text().partition("\n\n")[0]
    assert "lightning sweep configs/sweeps/digits.yaml --count" in header
    assert "wandb sweep configs/sweeps/digits.yaml" in header
