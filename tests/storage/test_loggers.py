"""The W&B run: axes, summary, configuration; and how a later part carries on."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, SMALL, wandb_records

from resnet18.storage.loggers import LEVELS, WandbRun
from resnet18.storage.records import read_metrics
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


def test_uploads_can_be_switched_off() -> None:
    assert WandbRun(offline=True).uploads
    assert not WandbRun(offline=True, log_model=False).uploads
