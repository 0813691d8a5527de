"""Curves as SVG: axes with round numbers, gaps, thinning, names at their ends."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from resnet18.report.charts import FROM_ZERO, LINEAR, LOG, SHARE, Line, by_epoch, chart, stops, thinned, value_axis


def drawn(*lines: Line, epochs: int = 10, shown: int = 10, scale: str = LINEAR) -> ElementTree.Element:
    return ElementTree.fromstring(chart("loss", lines, epochs, shown, scale))


def path_of(figure: ElementTree.Element) -> str:
    return next(path.get("d", "") for path in figure.iter("path") if (path.get("class") or "").startswith("line"))


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ([0.21, 0.99], SHARE, [0, 0.25, 0.5, 0.75, 1]),
        ([0.97, 1.0], SHARE, [0.97, 0.98, 0.99, 1.0]),
        ([1.0], SHARE, [0.9, 0.925, 0.95, 0.975, 1.0]),
        ([0.0], SHARE, [0, 0.25, 0.5, 0.75, 1]),
        ([3400, 4100], FROM_ZERO, [0, 2000, 4000, 6000]),
        ([31, 42], LINEAR, [30, 35, 40, 45]),
        ([-1.5, 2], LINEAR, [-2, -1, 0, 1, 2]),
        ([2.3, 1.1, 0.01, 0.009], LOG, [0.01, 0.1, 1]),
        ([2.3, 1.1, 0.5], LOG, [0, 1, 2, 3]),
        ([2.3, 1.1, 0], LOG, [0, 1, 2, 3]),
    ],
)
def test_an_axis_has_round_ticks_around_all_values(values: list[float], scale: str, ticks: list[float]) -> None:
    axis = value_axis(values, scale)
    assert axis.ticks == pytest.approx(ticks)
    assert all(0 <= (axis.place(value) or 0) <= 1 + 1e-9 for value in values)


def test_one_steep_start_does_not_make_an_axis_logarithmic() -> None:
    assert not value_axis([100.0, *[1.0] * 99], LOG).is_log


@pytest.mark.parametrize("epochs", [0, 1, 7, 400, 401, 5000])
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
    assert thinned([]) == []


def test_a_curve_breaks_where_a_value_is_not_finite() -> None:
    values = [1.0, 0.9, math.nan, 0.7, math.inf, 0.5]
    figure = drawn(Line("loss", [(x + 1.0, value) for x, value in enumerate(values)]), epochs=6, shown=3)
    assert re.sub(r"[\d. -]", "", path_of(figure)) == "MLMM"
    assert figure.findtext(".//b") == "nan"


def test_a_curve_without_a_finite_value_is_said_to_have_none() -> None:
    figure = drawn(Line("loss", [(1.0, math.nan)]), shown=1)
    assert figure.find(".//svg") is None
    assert figure.findtext(".//p") == "no finite value"


def test_a_single_value_is_seen() -> None:
    assert len(list(drawn(Line("loss", [(1.0, 2.0)]), epochs=1, shown=1).iter("circle"))) == 1


def test_names_at_the_ends_of_equal_curves_do_not_cover_each_other() -> None:
    points = [(float(x), 1.0) for x in range(1, 11)]
    figure = drawn(*(Line(name, points, number, short=name) for number, name in enumerate("ABCD")))
    places = [float(label.get("y", 0)) for label in figure.iter("text") if label.text in set("ABCD")]
    assert len(places) == 4
    assert all(later - earlier >= 13 for earlier, later in itertools.pairwise(places))


def test_the_seventh_curve_is_told_from_the_first() -> None:
    figure = drawn(*(Line(str(number), [(1.0, 1.0), (2.0, 1.0)], number) for number in range(12)))
    kinds = [path.get("class") for path in figure.iter("path") if (path.get("class") or "").startswith("line")]
    assert len(set(kinds)) == 12


def test_the_best_epoch_is_marked() -> None:
    points = [(float(x), 1 / x) for x in range(1, 11)]
    figure = drawn(Line("val/loss", points, best=4, ring=True))
    assert [path.get("d") for path in figure.iter("path") if path.get("class") == "best"] == ["M202.0 16V206"]
    assert [circle.get("cx") for circle in figure.iter("circle")] == ["202.0"]


def test_names_are_text() -> None:
    figure = chart("<i>", [Line("<script>&\"'", [(1.0, 1.0)])], 1, 1)
    assert "<script>" not in figure
    assert ElementTree.fromstring(figure).findtext("h3") == "<i>"
