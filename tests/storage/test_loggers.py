"""The W&B run: axes, summary, configuration; and how a later part carries on."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, SMALL, wandb_records

from resnet18.storage.loggers import LEVELS, WandbRun, reopen_wandb, wandb_without_questions
from resnet18.storage.records import read_config, read_metrics
from resnet18.storage.status import Status
from resnet18.storage.wandb_parts import parts, records


def keys(config: Any, above: str = "") -> list[str]:
    """The dotted names under which W&B shows a configuration."""
    if not isinstance(config, dict) or not config:
        return [above]
    return [key for name, value in config.items() for key in keys(value, f"{above}.{name}".lstrip("."))]


def of_kind(part: Path, kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in wandb_records(part) if record["type"] == kind]


def summary(part: Path) -> dict[str, Any]:
    return {name: value for found in of_kind(part, "summary") for name, value in found.get("update", {}).items()}


def test_each_metric_has_its_axis_by_name(trained: Path) -> None:
    defined = of_kind(parts(trained)[0], "metric")  # `wandb leet` takes no * for a name
    axes = {metric.get("name"): metric.get("step_metric") for metric in defined}
    assert {axes[name] for name in ("val/loss", "val/top1", "best/top1", "best/epoch")} == {"epoch"}
    assert {axes[name] for name in ("train/loss", "lr", "grad_norm", "images_per_s")} == {"trainer/global_step"}


def test_the_summary_holds_the_best_as_plain_numbers(trained: Path) -> None:
    found, rows = summary(parts(trained)[0]), read_metrics(trained)
    assert found["best/top1"] == pytest.approx(max(row["val/top1"] for row in rows if "val/top1" in row), rel=1e-5)
    assert found["best/epoch"] in (0, 1, 2)


def test_the_configuration_describes_the_run_and_is_not_too_deep_for_w_and_b(lightning, tmp_path: Path) -> None:
    metrics = "{acc: {class_path: torchmetrics.classification.MulticlassAccuracy, init_args: {num_classes: 10}}}"
    (tmp_path / "metrics.yaml").write_text(f"model: {{metrics: {metrics}}}\n")
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--run_dir", "run")
    done = lightning("fit", "--config", CONFIG, "--config", "metrics.yaml", *SMALL, *short)
    assert done.status == 0, done.err
    logged: dict[str, Any] = {}
    for record in records(parts(tmp_path / "run")[0]):
        for item in record.config.update:
            logged[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    found = [key for name, value in logged.items() if name != "_wandb" for key in keys(value, name)]
    assert "model.optimizer.init_args.lr" in found
    assert {"parameters", "images.train", "images.val", "split_hash", "git", "versions.torch"} <= set(found)
    assert max(key.count(".") for key in found) < LEVELS
    assert '"num_classes": 10' in logged["model"]["metrics"]["acc"]["init_args"]


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


def test_uploads_can_be_switched_off() -> None:
    assert WandbRun(offline=True).uploads
    assert not WandbRun(offline=True, log_model=False).uploads
