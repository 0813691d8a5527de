"""Runs online at a stand-in for W&B's server: killed and resumed, tested, in a sweep; and where it does not answer."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
import yaml
from conftest import CONFIG, ROOT, SMALL, start
from wandb_runs import history, kill_a_run, written
from wandb_server import Run, WandbServer

from resnet18.__main__ import main
from resnet18.cli.fitting import Fit
from resnet18.storage.records import read_evaluations, read_json, read_metrics


def wandb_command(arguments: list[str], place: Path, **environment: str) -> None:
    process = start(arguments, place, (sys.executable, "-m", "wandb"), **environment)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def directory(wandb_server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed, resumed and tested online."""
    place = tmp_path_factory.mktemp("online")
    kill_a_run(place, "--trainer.logger.tags", "[kept]", **wandb_server.environment)
    with pytest.MonkeyPatch.context() as patch:
        go_online(wandb_server, patch)
        patch.chdir(place)
        patch.setattr(sys, "argv", ["lightning"])
        patch.setattr(sys, "path", [str(place), *sys.path])
        for command in ("fit", "test"):
            assert main([command, "--ckpt_path", "run"]) == 0
        wandb.teardown()
    return place / "run"


def go_online(server: WandbServer, patch: pytest.MonkeyPatch, **environment: str) -> None:
    wandb.teardown()  # it reads the environment once
    for name, value in {**server.environment, **environment}.items():
        patch.setenv(name, value)


@pytest.fixture
def run(directory: Path, wandb_server: WandbServer) -> Run:
    """What the server has of it."""
    return wandb_server.runs[directory.name]


def test_a_killed_run_is_one_run_with_every_row_once(directory: Path, run: Run) -> None:
    assert history(run) == written(directory)
    assert [row["_step"] for row in run.rows] == list(range(len(run.rows)))
    assert run.exit_code == 0


def test_an_evaluation_writes_into_the_same_run(directory: Path, wandb_server: WandbServer, run: Run) -> None:
    assert list(wandb_server.runs) == [directory.name]
    assert run.summary["test/top1"] == pytest.approx(read_evaluations(directory)[-1]["test/top1"])
    highest = max(row.get("val/top1", 0) for row in read_metrics(directory))
    assert run.summary["best/top1"] == pytest.approx(highest, rel=1e-5)
    assert run.summary["best/epoch"] in (0, 1, 2)
    assert [row["test/top1"] for row in run.rows if "test/top1" in row] == [run.summary["test/top1"]]


@pytest.mark.parametrize("name", ["train/batch", "val/mistakes", "test/mistakes"])
def test_pictures_are_there_with_their_captions(name: str, run: Run) -> None:
    (shown,) = [row[name] for row in run.rows if name in row]
    assert shown["_type"] == "images/separated"
    assert len(shown["captions"]) == len(shown["filenames"]) > 0
    assert all(run.files[file].startswith(b"\x89PNG") for file in shown["filenames"])


@pytest.mark.parametrize(("alias", "name"), [("best", "best.ckpt"), ("latest", "last.ckpt")])
def test_checkpoints_are_artifacts(alias: str, name: str, directory: Path, wandb_server: WandbServer) -> None:
    artifact = wandb_server.artifact(f"model-{directory.name}", alias)
    assert artifact.committed
    assert artifact.files[name] == (directory / "checkpoints" / name).read_bytes()


def test_the_run_is_described_and_the_key_is_nowhere(directory: Path, wandb_server: WandbServer, run: Run) -> None:
    described = {"modelName": "resnet18", "jobType": "fit", "tags": ["kept"]}
    assert {name: run.properties[name] for name in described} == described
    assert run.properties["displayName"].startswith("digits width=8")
    assert run.config["model"]["value"]["optimizer"]["init_args"]["lr"] == 2e-3
    key = wandb_server.environment["WANDB_API_KEY"].encode()
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if key in path.read_bytes()] == []


def test_a_sweeps_trial_is_online_and_has_its_own_id(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = yaml.safe_load((ROOT / "configs" / "sweeps" / "digits.yaml").read_text())
    sweep["command"] += [*SMALL, "--trainer.max_epochs", "1"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    (tmp_path / "configs").symlink_to(CONFIG.parent)
    monkeypatch.delenv("WANDB_MODE")
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # the agent's interpreter is `python`
    environment = {name: value for name, value in wandb_server.environment.items() if name != "WANDB_MODE"} | here
    wandb_command(["sweep", "--project", "tried", "sweep.yaml"], tmp_path, **environment)
    (name,) = wandb_server.sweeps
    wandb_command(["agent", "--count", "1", f"someone/tried/{name}"], tmp_path, **environment)
    (trial,) = [run for run in wandb_server.runs.values() if run.properties.get("sweep") == name]
    assert (trial.exit_code, trial.properties["modelName"]) == (0, "tried")
    rows = written(tmp_path / "runs" / "digits" / trial.name)
    assert history(trial) == rows
    assert trial.summary[sweep["metric"]["name"]] == pytest.approx(float(rows[-1]["best/top1"]))
    assert trial.config["model"]["value"]["schedule"] is None  # the first of the values
    assert sweep["parameters"].keys() <= trial.config.keys()


@pytest.fixture
def silent(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that a test may stop from answering; waits for it are short."""
    go_online(wandb_server, monkeypatch, WANDB_INIT_TIMEOUT="3", WANDB_HTTP_TIMEOUT="3")
    yield wandb_server
    wandb_server.refusal, wandb_server.hangs = 0, False
    wandb.teardown()


@pytest.mark.parametrize("refusal", [401, 500, None], ids=["refuses the key", "is broken", "never answers"])
def test_a_server_that_does_not_answer_costs_no_run(
    refusal: int | None, lightning, silent: WandbServer, tmp_path: Path
) -> None:
    silent.refusal, silent.hangs = refusal or 0, refusal is None
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--run_dir", "run")
    done = lightning("fit", "--config", CONFIG, *SMALL, *short)
    assert done.status == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "W&B" in line]
    assert line.startswith("W&B can't go online: ")
    assert line.endswith("; the run is kept offline, `wandb sync` uploads it later")
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1


def test_a_server_that_goes_away_during_a_run_costs_no_run(
    lightning, silent: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Fit._close_run

    def close(program: Fit) -> None:
        trained(program)
        silent.hangs = True

    monkeypatch.setattr(Fit, "_close_run", close)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "3")
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--run_dir", "run")
    done = lightning("fit", "--config", CONFIG, *SMALL, *short)
    assert done.status == 0, done.err
    (part,) = (tmp_path / "run" / "wandb").glob("run-*")
    assert f"W&B's server does not answer; the rest is uploaded by: wandb sync {part}" in done.err
    assert read_json(tmp_path / "run" / "status.json")["state"] == "finished"
