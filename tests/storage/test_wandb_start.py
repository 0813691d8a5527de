"""How W&B starts: where, as whose run, and what a later part carries on."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import wandb_records

from resnet18.storage.records import read_config
from resnet18.storage.status import Status
from resnet18.storage.wandb_parts import parts
from resnet18.storage.wandb_start import reopen_wandb, wandb_without_questions


def of_kind(part: Path, kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in wandb_records(part) if record["type"] == kind]


def summary(part: Path) -> dict[str, Any]:
    return {name: value for found in of_kind(part, "summary") for name, value in found.get("update", {}).items()}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / trained.name, symlinks=True)


def test_a_later_part_is_the_same_run(run: Path) -> None:
    before = of_kind(parts(run)[0], "run")[0]
    logger = reopen_wandb(run)
    assert logger is not None
    logger.log_metrics({"epoch": 2, "test/top1": 0.5}, 59)
    logger.experiment.finish()
    first, second = parts(run)
    after = of_kind(second, "run")[0]
    kept = ("run_id", "display_name", "project", "job_type")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert len(of_kind(second, "history")) == 1  # the rows that the first part holds are not logged again
    assert summary(second)["best/top1"] == pytest.approx(summary(first)["best/top1"], rel=1e-5)
    axes = {metric.get("name"): metric.get("step_metric") for metric in of_kind(second, "metric")}
    assert axes["val/top1"] == axes["test/top1"] == "epoch"


def test_a_run_without_w_and_b_or_in_training_takes_no_part(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(run)  # as the process that trains it holds it
    assert reopen_wandb(run) is None
    status.close("finished")
    assert "the run is being trained" in capsys.readouterr().err
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("storage.loggers.WandbRun", "another.Logger"))
    assert read_config(run)["trainer"]["logger"]["class_path"].endswith("another.Logger")
    assert reopen_wandb(run) is None
    assert reopen_wandb(run.parent) is None
    assert len(parts(run)) == 1


@pytest.mark.parametrize(
    ("environment", "part", "mode"),
    [
        ({}, None, "offline"),
        ({}, "offline-run-20260101_000000-a", "offline"),
        ({}, "run-20260101_000000-a", "online"),
        ({"WANDB_SWEEP_ID": "s"}, None, "online"),
        ({"WANDB_SWEEP_ID": "s", "WANDB_MODE": "offline"}, None, "offline"),
        ({"WANDB_MODE": "disabled"}, "run-20260101_000000-a", "disabled"),
    ],
)
def test_the_mode_is_the_environments_else_that_of_the_last_part(
    environment: dict[str, str], part: str | None, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", dict(environment))
    if part:
        (tmp_path / "wandb" / part).mkdir(parents=True)
    wandb_without_questions(tmp_path)
    assert os.environ["WANDB_MODE"] == mode


def test_a_password_in_the_servers_address_is_kept_as_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"WANDB_BASE_URL": "https://user:a%2Fkey@wandb.example:8080/path"}
    monkeypatch.setattr("os.environ", environment)
    wandb_without_questions(None)
    assert environment["WANDB_BASE_URL"] == "https://wandb.example:8080/path"
    assert environment["WANDB_API_KEY"] == "a/key"
