"""``lightning sweep``: trials as processes, continued after a kill; with runs made beforehand, all that may happen."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONFIG, ROOT, SMALL, start, wandb_records
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from resnet18.cli.fitting import Fit
from resnet18.cli.sweep_file import Sweep, read_sweep
from resnet18.commands import sweep as sweep_command
from resnet18.commands.sweep import check_space, refusal, score
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
    write(tmp_path / "mine.yaml", parameters={"model.ema": {"values": [0.9, 0.0]}})
    command = ("sweep", "mine.yaml", "--count", "1")
    killed = start(command, tmp_path)
    place = tmp_path / "runs" / "mine-sweep"
    while not (place / "trial-1" / "config.yaml").exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()  # the trial goes on without it
    killed.communicate()

    done = lightning(*command)
    assert done.status == 0, done.err
    assert "trial-1 is still being trained, by an earlier start; waiting for it" in done.out
    assert (place / "trial-1.log").read_text().count("fit --config") == 1
    asked, *lines = journal(tmp_path)
    assert asked["asked"]["seed"] == 1
    run = overview(place / "trial-1")
    assert (run.config["model"]["ema"], run.test) == (0.9, {})
    assert [(line["trial"], line.get("score")) for line in lines] == [(1, None), (1, run.best)]
    assert run_directories(tmp_path / "runs") == [run.directory]
    records = wandb_records(run.directory / "wandb" / "latest-run")
    assert next(one["run"]["run_group"] for one in records if one["type"] == "run") == "mine-sweep"

    again = lightning(*command)
    assert again.out.splitlines() == done.out.splitlines()[-3:]  # the table
    assert journal(tmp_path) == [asked, *lines]


@pytest.fixture
def fake(trained: Path, lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., None]]:
    """Instead of training, a trial copies a run; what is in this dictionary under a trial's name is called first."""
    before: dict[str, Callable[..., None]] = {}

    def train(group: Path, name: str, options: list[str], test: bool = True) -> Overview:
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

    monkeypatch.setattr(sweep_command, "train", train)
    monkeypatch.setattr(sweep_command, "check_space", lambda _: None)
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
    table, _, repeated = done.out.partition("trial state")[2].partition("\n\n")
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [(row[0], row[1], row[2], row[4], " ".join(row[6:])) for row in rows] == [
        ("2", "finished", "70.00", "2", "ema 0, lr 0.01"),
        ("3", "finished", "60.00", "2", "ema 0.9, lr 0.1"),
        ("1", "finished", "50.00", "2", "ema 0, lr 0.1"),
        ("4", "finished", "40.00", "2", "ema 0.9, lr 0.01"),
    ]
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


def test_a_diverged_trial_has_no_score(fake, lightning, tmp_path: Path, trained: Path) -> None:
    def diverged(run: Path) -> None:
        shutil.copytree(trained, run)
        write_json(run / "status.json", {"state": "diverged", "reason": "the loss is nan"})

    fake["trial-2"] = diverged
    write(tmp_path / "mine.yaml")
    done = lightning("sweep", "mine.yaml")
    assert done.status == 0, done.err
    assert [line["state"] for line in journal(tmp_path) if "state" in line] == ["finished", "diverged"]
    assert "the loss is nan" in done.out
    assert done.out.splitlines()[-1].split() == ["2", "diverged", "3", "ema", "0.9"]


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


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a sweep from the shipped file with other content."""
    monkeypatch.chdir(ROOT)

    def make(**changes: Any) -> Sweep:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(SHIPPED.read_text()), **changes}))
        return read_sweep(path)

    return make


def test_fit_accepts_what_an_agent_makes_of_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(SHIPPED)
    for values in sweep.corners():
        expanded = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
        (tmp_path / "trial.json").write_text(expanded["args_json"][0])
        config = Fit("fit", [*sweep.options, "--config", str(tmp_path / "trial.json")], announce=False).config
        for key, value in values.items():
            found = config.get(key)
            assert (found.class_path if hasattr(found, "class_path") else found) == value


def test_the_metric_of_the_shipped_file_is_a_plain_number_of_a_run(trained: Path) -> None:
    sweep = read_sweep(SHIPPED)
    summary: dict[str, Any] = {}
    for record in wandb_records(trained / "wandb" / "latest-run"):
        summary |= record["summary"].get("update", {}) if record["type"] == "summary" else {}
    assert isinstance(summary[sweep.metric], float)
    assert score(overview(trained), sweep.metric, sweep.goal) == pytest.approx(summary[sweep.metric])


def test_a_run_is_judged_in_its_best_epoch_or_where_the_metric_is_best(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())  # best by val/top1
    rows = ["epoch,val/loss,val/top1", "0,0.3,0.8", "1,0.5,0.9", "2,0.4,0.7"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    run = overview(tmp_path)
    assert score(run, "best/top1", "maximize") == score(run, "val/top1", "maximize") == 0.9
    assert (score(run, "best/loss", "minimize"), score(run, "val/loss", "minimize")) == (0.5, 0.3)
    assert score(run, "val/none", "minimize") is score(run, "best/none", "minimize") is None


WRONG = {
    "key": ({"model.optimizer.init_args.lrr": {"value": 0.1}}, {}, r"model.optimizer.lrr: .* did you mean lr\?"),
    "last value": ({"model.ema": {"values": [0.0, 0.5, 1.5]}}, {}, "model.ema: "),
    "metric": ({"model.ema": {"value": 0.1}}, {"name": "best/topp1"}, r"metric.name: .* did you mean best/top1\?"),
    "goal": ({"model.ema": {"value": 0.1}}, {"name": "val/loss"}, "metric.goal: maximize contradicts val/loss"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_fit_refuses_is_refused_before_the_first_trial(case: str, change, monkeypatch) -> None:
    # In this process: another takes 5 s to start.
    monkeypatch.setattr(sweep_command, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    parameters, metric, message = WRONG[case]
    sweep = change(parameters=parameters, metric={"name": "best/top1", "goal": "maximize", **metric})
    with pytest.raises(UsageError, match=message) as refused:
        check_space(sweep)
    assert str(refused.value).startswith(f"{sweep.path}: ")
    assert len(str(refused.value).splitlines()) == 1
    assert ".json" not in str(refused.value)


def test_a_metric_of_a_class_of_ones_own_may_be_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mycallback", raising=False)  # an earlier test's
    (tmp_path / "mycallback.py").write_text("from lightning.pytorch import Callback\nclass Own(Callback): ...\n")
    options = ["--config", str(ROOT / "configs" / "digits.yaml")]
    assert "must be one of val/loss" in str(refusal([options], "val/own", "maximize"))
    assert refusal([[*options, "--trainer.callbacks=mycallback.Own"]], "val/own", "maximize") is None
