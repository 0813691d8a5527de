"""A second task, in a file of a user's own: several classes an image, with its loss, metric and data."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, SMALL
from test_readme import FILES

from resnet18 import load_run
from resnet18.storage.records import read_metrics

OPTIONS = (
    *("--config", CONFIG, *SMALL, "--model", "mytask.SeveralClasses", "--model.loss", "torch.nn.BCEWithLogitsLoss"),
    *("--data", "mytask.TwoDigits", "--best.monitor", "val/f1", "--trainer.logger", "false"),
)


def test_several_classes_an_image_train_test_resume_and_predict(lightning, tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(FILES["mytask.py"])
    done = lightning("fit", *OPTIONS, "--trainer.max_epochs", "6", "--run_dir", "run")
    assert done.status == 0, done.err
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "12")
    assert done.status == 0, done.err
    rows = [row for row in read_metrics(Path("run")) if "val/f1" in row]
    assert len(rows) == 12
    assert rows[-1]["val/f1"] > rows[0]["val/f1"]
    assert "val/top1" not in rows[0]
    assert f"best    val/f1 {max(row['val/f1'] for row in rows):.4f}, in epoch " in done.out
    done = lightning("test", "--ckpt_path", "run")
    assert done.status == 0, done.err
    run = load_run("run")
    assert type(run.model).__name__ == "SeveralClasses"
    run.data.setup("test")
    with torch.no_grad():
        batches = [(run.model(images), targets) for images, targets, _ in run.data.test_dataloader()]
    logits, targets = torch.cat([one for one, _ in batches]), torch.cat([other for _, other in batches])
    assert targets.shape == (198, 10)
    found, there = logits.sigmoid() > 0.5, targets.bool()
    f1 = 2 * (found & there).sum(0) / (found.sum(0) + there.sum(0)).clamp(min=1)
    assert run.evaluations[-1]["test/f1"] == pytest.approx(f1.mean().item(), abs=1e-5)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    assert run.evaluations[-1]["test/loss"] == pytest.approx(loss, rel=1e-4)
    done = lightning("predict", "--ckpt_path", "run", "--output", "out.csv")
    assert done.status == 0, done.err
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == [
        "+".join(str(number) for number, one in enumerate(image) if one) for image in found.tolist()
    ]


def test_it_is_checked_and_measured_like_any_other(lightning, tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(FILES["mytask.py"])
    done = lightning("check", *OPTIONS, "--steps", "200")
    assert done.status == 0, done.out + done.err
    assert "no warnings, nothing wrong" in done.out
    done = lightning("bench", *OPTIONS, "--steps", "2")
    assert done.status == 0, done.err
