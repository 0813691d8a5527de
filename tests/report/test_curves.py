"""Which curves share a chart."""

import re
from pathlib import Path

import pytest
from run_makers import make_run

from resnet18.report.charts import FROM_ZERO, LINEAR, LOG, SHARE
from resnet18.report.curves import curves, scale_of, title_of
from resnet18.report.run_files import read_run


@pytest.mark.parametrize(
    ("metric", "title", "scale"),
    [
        ("train/loss", "loss", LOG),
        ("val/loss", "loss", LOG),
        ("val/top1", "accuracy", SHARE),
        ("val/top5", "accuracy", SHARE),
        ("val/f1", "f1", LINEAR),
        ("lr", "learning rate", LINEAR),
        ("lr/backbone", "learning rate", LINEAR),
        ("images_per_s", "images/s", FROM_ZERO),
        ("my/own/thing", "my/own/thing", LINEAR),
    ],
)
def test_a_metric_has_its_chart(metric: str, title: str, scale: str) -> None:
    assert (title_of(metric), scale_of(metric)) == (title, scale)


def test_the_charts_of_one_run_start_with_loss_and_accuracy(tmp_path: Path) -> None:
    drawn = curves([read_run(make_run(tmp_path / "run"))], [""])
    titles = re.findall(r"<h3>([^<]+?)(?: <|<)", drawn)
    assert titles[:3] == ["loss", "accuracy", "learning rate"]
    assert len(titles) == len(set(titles)) == 11
    assert drawn.count('<path class="line') == 14
    assert "epoch 14 of 15, the best" in drawn


def test_several_runs_share_the_chart_of_each_metric(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", epochs=5)
    (other / "metrics.csv").write_text("epoch,step,val/loss,own\n0,9,2.0,1\n1,19,1.5,1\n")
    drawn = curves([read_run(one), read_run(other)], ["A", "B"])
    charts = {re.findall(r"<h3>([^<]+?)(?: <|<)", chart)[0]: chart for chart in drawn.split("<figure")[1:]}
    lines = {title: chart.count('<path class="line') for title, chart in charts.items()}
    assert (lines["val/loss"], lines["val/top1"], lines["own"]) == (2, 1, 1)
    assert '"M' in charts["own"]


def test_best_values_and_test_scores_are_no_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").write_text("epoch,step,best/top1,test/top1\n0,9,0.5,\n0,9,,0.5\n")
    assert curves([read_run(run)], [""]) == '<p class="note">Nothing was logged.</p>'
