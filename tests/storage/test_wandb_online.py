"""Runs online at a stand-in for W&B's server: killed and resumed, tested, in a sweep; and where it does not answer."""

import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
import yaml
from conftest import CONFIG, ROOT, SMALL, start, wandb_history
from wandb_server import Run, WandbServer

import resnet18

SLOWLY = """
import time
from lightning.pytorch import Callback

class Slowly(Callback):
    def on_train_batch_start(self, *arguments):
        time.sleep(0.05)
"""


def run_to_end(arguments: list[object], place: Path, environment: dict[str, str], program: tuple[str, ...] = ()) -> str:
    process = start(arguments, place, program, **environment)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return out + err


@pytest.fixture(scope="module")
def directory(wandb_server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed, resumed and tested online."""
    place = tmp_path_factory.mktemp("online")
    (place / "slowly.py").write_text(SLOWLY)
    often = ("--trainer.log_every_n_steps", "2", "--last.every_n_steps", "10", "--trainer.callbacks+", "slowly.Slowly")
    options = ("--trainer.max_epochs", "3", "--run_dir", "run", "--trainer.logger.tags", "[kept]")
    process = start(["fit", "--config", CONFIG, *SMALL, *options, *often], place, **wandb_server.environment)
    metrics = place / "run" / "metrics.csv"
    until = time.monotonic() + 120
    while not metrics.exists() or "\n1,33," not in metrics.read_text():  # 3 steps beyond a checkpoint, of 60
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    for arguments in (["fit"], ["test"]):
        run_to_end([*arguments, "--ckpt_path", "run"], place, wandb_server.environment)
    return place / "run"


@pytest.fixture
def run(directory: Path, wandb_server: WandbServer) -> Run:
    """What the server has of it."""
    return wandb_server.runs[directory.name]


def test_a_killed_run_is_one_run_with_every_row_once(directory: Path, run: Run) -> None:
    written = list(csv.DictReader((directory / "metrics.csv").open()))
    assert wandb_history(run) == [{name: cell for name, cell in row.items() if cell} for row in written]
    assert [row["_step"] for row in run.rows] == list(range(len(run.rows)))
    assert run.exit_code == 0


def test_an_evaluation_writes_into_the_same_run(directory: Path, wandb_server: WandbServer, run: Run) -> None:
    stored = resnet18.load_run(directory)
    assert list(wandb_server.runs) == [directory.name]
    assert run.summary["test/top1"] == pytest.approx(stored.evaluations[-1]["test/top1"])
    assert run.summary["best/top1"] == pytest.approx(max(stored.curve("val/top1")[1]), rel=1e-5)
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
    program = (sys.executable, "-m", "wandb")
    run_to_end(["sweep", "--project", "tried", "sweep.yaml"], tmp_path, environment, program)
    (name,) = wandb_server.sweeps
    run_to_end(["agent", "--count", "1", f"someone/tried/{name}"], tmp_path, environment, program)
    (trial,) = [run for run in wandb_server.runs.values() if run.properties.get("sweep") == name]
    assert (trial.exit_code, trial.properties["modelName"]) == (0, "tried")
    written = list(csv.DictReader((tmp_path / "runs" / "digits" / trial.name / "metrics.csv").open()))
    assert wandb_history(trial) == [{name: cell for name, cell in row.items() if cell} for row in written]
    assert trial.summary[sweep["metric"]["name"]] == pytest.approx(float(written[-1]["best/top1"]))
    assert trial.config["model"]["value"]["schedule"] is None  # the first of the values
    assert sweep["parameters"].keys() <= trial.config.keys()


@pytest.fixture
def silent(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that does not do what it should, to which a run in this process turns."""
    wandb.teardown()  # it reads the environment once
    for name, value in {**wandb_server.environment, "WANDB_INIT_TIMEOUT": "3", "WANDB_HTTP_TIMEOUT": "3"}.items():
        monkeypatch.setenv(name, value)
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
