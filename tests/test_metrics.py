"""Metrics: the exact mean, and yours, from a line in the model or from YAML."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import DROPOUT_NET, DROPOUT_RUN, ROOT, start, wandb_records

from resnet18 import load_run
from resnet18.metrics import MeanLoss
from resnet18.storage.records import read_metrics

STOPPING = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor")
F1 = """
model:
  metrics:
    f1: {class_path: torchmetrics.classification.MulticlassF1Score, init_args: {num_classes: 10, average: macro}}
    ece: {class_path: torchmetrics.classification.MulticlassCalibrationError, init_args: {num_classes: 10}}
"""


def test_the_mean_loss_is_exact_where_the_module_is_held_in_16_bits() -> None:
    mean = MeanLoss().to(torch.bfloat16)  # as the Trainer does in bf16-true
    for _ in range(2):
        for count in [100] * 50 + [7]:
            mean.update(torch.tensor(1.1).mul(count), count)
        assert mean.compute().item() == pytest.approx(1.1, rel=1e-6)
        mean.reset()


def modes(run: str) -> list[str]:
    """What the run's configuration says of the best epoch's, and then of every callback's, direction."""
    config = yaml.safe_load(Path(run, "config.yaml").read_text())
    callbacks = config["trainer"]["callbacks"] or []
    return [config["best"]["mode"], *(one["init_args"]["mode"] for one in callbacks)]


def test_metrics_from_yaml_are_logged_shown_watched_and_tested(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "metrics.yaml").write_text(F1)
    run = [*DROPOUT_RUN[: DROPOUT_RUN.index("--trainer.logger")], "--config", "metrics.yaml", "--run_dir", "run"]
    done = lightning(*run, *STOPPING, "val/ece", "--best.monitor", "val/f1", "--trainer.max_epochs", "2")
    assert done.status == 0, done.err
    assert modes("run") == ["max", "min"]  # a higher F1 is better, a lower calibration error
    rows = [row for row in read_metrics(Path("run")) if "val/f1" in row]
    assert re.findall(r"(?m)^epoch .*  val/f1 (\S+)", done.out) == [f"{row['val/f1']:.4f}" for row in rows]
    assert f"best    val/f1 {max(row['val/f1'] for row in rows):.4f}, in epoch " in done.out
    (part,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    logged = json.dumps([record["history"] for record in wandb_records(part) if "history" in record])
    assert all(f'"{name}"' in logged for name in ("val/f1", "val/ece", "val/top1"))
    done = lightning("test", "--ckpt_path", "run")
    assert done.status == 0, done.err
    loaded = load_run("run")
    assert {"test/f1", "test/ece", "test/top1", "test/top5", "test/loss"} <= loaded.evaluations[-1].keys()
    assert set(loaded.model.val_scores.keys()) == {"val/top1", "val/top5", "val/f1", "val/ece"}
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "3")
    assert done.status == 0, done.err
    assert len([row for row in read_metrics(Path("run")) if "val/f1" in row]) == 3


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("MulticlassF1Score", {"num_classes": 10, "average": "none"}, "gives a tensor of 10, and not one number"),
        ("MulticlassConfusionMatrix", {"num_classes": 10}, "gives a tensor of 10×10, and not one number"),
        ("MulticlassF1Score", {"num_classes": 3}, "MulticlassF1Score fails for logits of 16×10 and targets of 16, int"),
        ("MulticlassF1Score", {"classes": 3}, "classes: "),
        ("MulticlassF1Scor", {}, "did you mean"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_by_its_key(
    kind: str, arguments: dict, message: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    metric = {"class_path": f"torchmetrics.classification.{kind}", "init_args": arguments}
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump({"model": {"metrics": {"f1": metric}}}))
    done = lightning(*DROPOUT_RUN, "--config", "metrics.yaml", "--trainer.max_epochs", "1")
    assert done.status == 2, done.out
    assert done.err.startswith("lightning fit: metrics.yaml: model.metrics"), done.err
    assert message in done.err
    assert len(done.err.splitlines()) <= 3
    assert not Path("runs").exists()


def test_a_line_in_make_metrics_is_a_metric_that_is_logged_shown_and_watched(tmp_path: Path) -> None:
    package = shutil.copytree(ROOT / "resnet18", tmp_path / "resnet18")
    code = (package / "classifier.py").read_text()
    added = code.replace(
        "        return metrics\n",
        "        from torchmetrics.classification import MulticlassF1Score\n\n"
        '        metrics["f1"] = MulticlassF1Score(classes)\n'
        "        return metrics\n",
    )
    assert added != code
    (package / "classifier.py").write_text(added)
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    options = (*STOPPING, "val/f1", "--best.monitor", "val/f1", "--trainer.max_epochs", "2", "--run_dir", "run")
    process = start([*DROPOUT_RUN, *options], tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert modes(str(tmp_path / "run")) == ["max", "max"]
    logged = [row["val/f1"] for row in read_metrics(tmp_path / "run") if "val/f1" in row]
    assert re.findall(r"(?m)^epoch .*  val/f1 (\S+)", out) == [f"{value:.4f}" for value in logged]
    assert f"best    val/f1 {max(logged):.4f}, in epoch " in out
