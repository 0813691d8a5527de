"""Curves as SVG: which share a chart, axes with round numbers, gaps, thinning, names at their ends."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest
from run_makers import make_run

from resnet18.report.charts import Line, by_epoch, chart, curves, stops, thinned, title_of, value_axis
from resnet18.report.run_files import read_run


def line(
    points: Sequence[tuple[float, float]], name: str = "val/loss", colour: int = 0, ring: int | None = None
) -> Line:
    return Line("val/loss", name, name, list(points), colour, ring)


def drawn(*lines: Line, epochs: int = 10, best: int | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(chart("loss", lines, epochs, epochs, best))


def path_of(figure: ElementTree.Element) -> str:
    return next(path.get("d", "") for path in figure.iter("path") if (path.get("class") or "").startswith("line"))


@pytest.mark.parametrize(
    ("values", "metric", "ticks"),
    [
        ([0.21, 0.99], "val/top1", [0, 0.25, 0.5, 0.75, 1]),
        ([0.97, 1.0], "val/top1", [0.97, 0.98, 0.99, 1.0]),
        ([1.0], "val/top1", [0.9, 0.925, 0.95, 0.975, 1.0]),
        ([0.0], "val/top1", [0, 0.25, 0.5, 0.75, 1]),
        ([3400, 4100], "images_per_s", [0, 2000, 4000, 6000]),
        ([31, 42], "lr", [30, 35, 40, 45]),
        ([-1.5, 2], "lr", [-2, -1, 0, 1, 2]),
        ([2.3, 1.1, 0.01, 0.009], "train/loss", [0.01, 0.1, 1]),
        ([2.3, 1.1, 0.5], "train/loss", [0, 1, 2, 3]),
        ([2.3, 1.1, 0], "train/loss", [0, 1, 2, 3]),
    ],
)
def test_an_axis_has_round_ticks_around_all_values(values: list[float], metric: str, ticks: list[float]) -> None:
    low, high, found, _ = value_axis(values, metric)
    assert found == pytest.approx(ticks)
    assert low <= min(values) <= max(values) <= high + 1e-9


def test_one_steep_start_does_not_make_an_axis_logarithmic() -> None:
    assert value_axis([100.0, *[1.0] * 99], "train/loss")[3] is False


@pytest.mark.parametrize("epochs", [1, 7, 400, 401, 5000])
def test_the_crosshair_stops_at_every_epoch_or_at_some_400(epochs: int) -> None:
    found = stops(epochs)
    assert len(found) <= 400
    assert found == list(range(1, epochs + 1)) if epochs <= 400 else found[0] == 1


def test_an_epoch_has_the_mean_of_its_log_points() -> None:
    found = by_epoch([(0.5, 2.0), (1.0, 1.0), (1.5, math.nan), (2.0, 3.0), (3.0, math.nan)])
    assert {epoch: value for epoch, value in found.items() if epoch < 3} == {1: 1.5, 2: 3.0}
    assert math.isnan(found[3])


def test_long_curves_are_thinned_to_means() -> None:
    points = [(step / 100, float(step)) for step in range(1, 1201)]
    assert len(thinned(points)) == 400
    assert thinned(points)[0] == pytest.approx((0.02, 2.0))
    assert thinned(points[:400]) == points[:400]


def test_a_curve_breaks_where_a_value_is_not_finite() -> None:
    figure = drawn(line(list(enumerate([1.0, 0.9, math.nan, 0.7, math.inf, math.nan], 1))), epochs=6)
    assert re.sub(r"[\d. -]", "", path_of(figure)) == "MLM"
    assert figure.findtext(".//b") == "nan"


def test_a_curve_without_a_finite_value_is_said_to_have_none() -> None:
    figure = drawn(line([(1.0, math.nan)]))
    assert figure.find(".//svg") is None
    assert figure.findtext(".//p") == "no finite value"


def test_a_single_value_is_seen() -> None:
    assert len(list(drawn(line([(1.0, 2.0)]), epochs=1).iter("circle"))) == 1


def test_names_at_the_ends_of_equal_curves_do_not_cover_each_other() -> None:
    points = [(float(x), 1.0) for x in range(1, 11)]
    figure = drawn(*(line(points, name) for name in "ABCD"))
    places = [float(label.get("y", 0)) for label in figure.iter("text") if label.text in set("ABCD")]
    assert len(places) == 4
    assert all(later - earlier >= 13 for earlier, later in itertools.pairwise(places))


def test_the_seventh_curve_is_told_from_the_first() -> None:
    figure = drawn(*(line([(1.0, 1.0), (2.0, 1.0)], str(number), number) for number in range(12)))
    kinds = [path.get("class") for path in figure.iter("path") if (path.get("class") or "").startswith("line")]
    assert len(set(kinds)) == 12


def test_the_best_epoch_is_marked() -> None:
    figure = drawn(line([(float(x), 1 / x) for x in range(1, 11)], ring=4), best=4)
    assert [path.get("d") for path in figure.iter("path") if path.get("class") == "best"] == ["M202.0 16V206"]
    assert [circle.get("cx") for circle in figure.iter("circle")] == ["202.0"]


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("train/loss", "loss"),
        ("val/top5", "accuracy"),
        ("val/f1", "f1"),
        ("lr/backbone", "learning rate"),
        ("images_per_s", "images/s"),
        ("my/own/thing", "my/own/thing"),
    ],
)
def test_a_metric_has_its_chart(metric: str, title: str) -> None:
    assert title_of(metric) == title


def test_the_charts_of_one_run_start_with_what_matters_most(tmp_path: Path) -> None:
    page = curves([read_run(make_run(tmp_path / "run"))], [""])
    titles = re.findall(r"<h3>([^<]+?)(?: <|<)", page)
    assert titles[:4] == ["loss", "accuracy", "learning rate", "gradient norm"]
    assert titles[-4:] == ["images/s", "step, ms", "weight norm", "memory, GB"]
    assert len(titles) == len(set(titles)) == 11
    assert page.count('<path class="line') == 14
    assert "epoch 14 of 15, the best" in page


def test_several_runs_share_the_chart_of_each_metric(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", epochs=5)
    (other / "metrics.csv").write_text("epoch,step,val/loss,own\n0,9,2.0,1\n1,19,1.5,1\n")
    page = curves([read_run(one), read_run(other)], ["A", "B"])
    charts = {re.findall(r"<h3>([^<]+?)(?: <|<)", chart)[0]: chart for chart in page.split("<figure")[1:]}
    lines = {title: chart.count('<path class="line') for title, chart in charts.items()}
    assert (lines["val/loss"], lines["val/top1"], lines["own"]) == (2, 1, 1)


def test_best_values_and_test_scores_are_no_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").write_text("epoch,step,best/top1,test/top1\n0,9,0.5,\n0,9,,0.5\n")
    assert curves([read_run(run)], [""]) == '<p class="note">Nothing was logged.</p>'


def test_names_are_text() -> None:
    figure = chart("<i>", [line([(1.0, 1.0)], "<script>&\"'")], 1, 1)
    assert "<script>" not in figure
    assert ElementTree.fromstring(figure).findtext("h3") == "<i>"
