"""Drawings of an evaluation: what is counted in them, and names that are hard to draw."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resnet18.report.figures import confusion, mistakes, per_class, reliability

HARD = ["<script>alert(1)</script>", "$100 & \"'", "مرحبا", "自転車自転車自転車自転車", "", "a\x00b\u202ec", "e" * 200]


def evaluated(names: list[str], each: int = 10) -> dict[str, Any]:
    """An evaluation in which class k has k of ``each`` images wrong, all taken for the next class."""
    cells = []
    for true in range(len(names)):
        wrong = min(true, each)
        cells += [[true, true, each - wrong]] if wrong < each else []
        cells += [[true, (true + 1) % len(names), wrong]] if wrong else []
    bins = [[0, 0.0, 0.0]] * 13 + [[4, 0.9, 0.75], [6, 0.98, 1.0]]
    missed = {"image": "a/1", "true": 0, "predicted": 1, "probability": 0.98, "picture": "evaluation/val-00.png"}
    calibration = {"error": 0.072, "bins": bins}
    return {"class_names": names, "confusion": cells, "calibration": calibration, "mistakes": [missed]}


def drawn(fragment: str) -> ElementTree.Element:
    """A fragment as an XML parser reads it, which forgives nothing."""
    return ElementTree.fromstring(f"<div>{fragment}</div>")


def test_a_confusion_matrix_has_a_cell_for_every_pair_that_occurs() -> None:
    found = evaluated(["cat", "dog", "emu"])
    rects = drawn(confusion(found)).findall(".//rect")
    assert len(rects) == len(found["confusion"]) == 5
    strength = {rect.get("class"): float((rect.get("style") or "").removeprefix("--t:")) for rect in rects}
    assert strength == {"right": 0.8, "wrong": 1.0}  # of the last one: the worst error has the full colour
    titles = [title.text for title in drawn(confusion(found)).findall(".//g/title")]
    assert "emu → cat: 2 of 10" in titles


@pytest.mark.parametrize("count", [2, 10, 20, 50])
def test_every_class_is_named_on_both_sides_inside_the_drawing(count: int) -> None:
    svg = drawn(confusion(evaluated([f"class {k}" for k in range(count)]))).find(".//svg")
    assert svg is not None
    names = [element for element in svg.iter("text") if element.find("title") is not None]
    assert len(names) == 2 * count
    wide, high = float(svg.get("width", 0)), float(svg.get("height", 0))
    for rect in svg.iter("rect"):
        assert float(rect.get("x", 0)) + float(rect.get("width", 0)) < wide
        assert float(rect.get("y", 0)) + float(rect.get("height", 0)) < high


def test_of_1000_classes_the_worst_are_listed() -> None:
    found = evaluated([f"n{k:08d}" for k in range(1000)])
    pairs = drawn(confusion(found)).findall(".//tbody/tr")
    assert len(pairs) == 20
    assert ["".join(cell.itertext()) for cell in pairs[0]] == ["n00000010", "n00000011", "10", "100.0 %"]
    classes = drawn(per_class(found))
    assert len(classes.findall(".//tbody/tr")) == 40
    assert (classes.findtext("p") or "").startswith("960 more classes, from 0.0 % up")


def test_classes_are_listed_with_their_images_and_interval() -> None:
    found = evaluated(["cat", "dog", "emu", "unseen"])
    found["confusion"] = [cell for cell in found["confusion"] if cell[0] != 3]
    listed = drawn(per_class(found))
    rows = [["".join(cell.itertext()) for cell in row][:3] for row in listed.findall(".//tbody/tr")]
    assert rows == [["cat", "10", "100.0 %"], ["dog", "10", "90.0 %"], ["emu", "10", "80.0 %"]]
    bars = [bar.get("title") for bar in listed.iter("span")]
    assert bars[1] == "95 % interval 59.6 to 98.2 %"  # Wilson, 9 of 10
    assert listed.findtext("p") == "1 without an image here"


def test_the_reliability_diagram_has_a_point_for_each_filled_bin() -> None:
    fragment = reliability(evaluated(["cat", "dog"]))
    points = drawn(fragment).findall(".//circle")
    assert [float(point.get("cy", math.nan)) for point in points] == [75, 0]  # 300 px high: accuracy .75 and 1
    assert "calibration error 7.20 %" in fragment


def test_mistakes_are_shown_with_or_without_their_pictures(tmp_path: Path) -> None:
    found = evaluated(HARD)
    assert "no picture" in mistakes(found, tmp_path)
    assert "None" in mistakes({**found, "mistakes": []}, tmp_path)
    (tmp_path / "evaluation").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "evaluation" / "val-00.png")
    (image,) = drawn(mistakes(found, tmp_path)).iter("img")
    assert (image.get("src") or "").startswith("data:image/png;base64,")


@pytest.mark.parametrize("draw", [confusion, per_class, lambda found: mistakes(found, Path())])
def test_names_in_any_script_are_text(draw: Any) -> None:
    fragment = draw(evaluated(HARD))
    assert "<script>" not in fragment
    assert "\x00" not in fragment
    shown = list(drawn(fragment).itertext())
    assert any(HARD[0] in part for part in shown)
    assert any(HARD[1] in part for part in shown)
