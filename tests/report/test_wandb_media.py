"""What W&B shows of an evaluation, with class names that are hard to draw."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resnet18.errors import RunError
from resnet18.report.wandb_media import log_evaluation

NAMES = ["<script>alert(1)</script>", "自転車", "a $b$"]


class Log:
    """Takes what a logger is given."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.metrics, self.step = metrics, step


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "evaluation").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "evaluation" / "val-00.png")
    mistake = {"image": "a/1", "true": 0, "predicted": 1, "probability": 0.98, "picture": "evaluation/val-00.png"}
    bins = [[0, 0.0, 0.0]] * 14 + [[12, 0.98, 0.9]]
    return {
        **{"part": "val", "epoch": 3, "step": 80, "class_names": NAMES, "confusion": [[0, 0, 5], [0, 1, 1], [2, 2, 6]]},
        "calibration": {"error": 0.08, "bins": bins},
        "mistakes": [mistake, {**mistake, "picture": "evaluation/gone.png"}],
    }


def test_drawings_and_mistakes_are_logged_at_their_epoch(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "evaluation-val.json").write_text(json.dumps(found))
    log: Any = Log()
    log_evaluation(log, tmp_path, "val", "val")
    assert log.step == 79  # steps from 0
    assert (log.metrics["epoch"], log.metrics["val/calibration_error"]) == (3, 0.08)
    (mistake,) = log.metrics["val/mistakes"]  # one picture is gone
    assert mistake._caption == "<script>alert(1)</script> → 自転車, 98.0 % (a/1)"
    for name in ("confusion", "per_class", "reliability"):
        html = log.metrics[f"val/{name}"].html
        assert html.startswith("<!DOCTYPE html>")
        assert "<script>alert" not in html
        assert "default-src 'none'" in html


def test_an_evaluation_without_classes_shows_nothing_and_a_broken_one_is_named(tmp_path: Path) -> None:
    log: Any = Log()
    for content in (None, '{"epoch": 1, "step": 9, "reason": "the targets are not one class an image"}'):
        if content:
            (tmp_path / "evaluation-test.json").write_text(content)
        log_evaluation(log, tmp_path, "test", "test")
    assert vars(log) == {}
    (tmp_path / "evaluation-test.json").write_text("{")
    with pytest.raises(RunError, match=r"evaluation-test\.json can't be read"):
        log_evaluation(log, tmp_path, "test", "test")
