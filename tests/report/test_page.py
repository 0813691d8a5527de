"""The page in a real browser, without a network: drawn, quiet, readable, at both widths and in both schemes."""

import base64
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_browser
from run_makers import make_run

from resnet18.errors import RunError
from resnet18.report.figures import per_class
from resnet18.report.markup import standalone
from resnet18.report.page import write_comparison, write_report
from resnet18.report.seed_groups import sum_up

HARD = [
    "<script>alert(1)</script>",
    "$x$ \"'",
    "مرحبا بالعالم",
    "自転車自転車",
    "a name as long as a sentence " * 4,
    "5",
]
EPOCHS, LINES = 200, 14
LOOKS = list(itertools.product((400, 1400), ("light", "dark")))

OVERLAPS = """[...document.querySelectorAll("svg")].flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], at) => boxes.slice(at + 1).filter(([_, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
  ).map(([other]) => name + " / " + other));
})"""

# The colour of each text against what lies below its middle: backgrounds of elements, and shapes in a drawing.
CONTRASTS = """(() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const pixel = colours => {
    pen.clearRect(0, 0, 1, 1);
    for (const [colour, opacity] of colours) {
      pen.globalAlpha = opacity; pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => rgb.map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = {};
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  window.scrollTo(0, 0);
  for (const node of document.querySelectorAll("body *")) {
    const written = [...node.childNodes].some(one => one.nodeType == 3 && one.textContent.trim());
    if (!written || node.closest("title, script")) continue;
    const box = node.getBoundingClientRect(), style = getComputedStyle(node);
    const under = document.elementsFromPoint(box.left + box.width / 2, box.top + box.height / 2);
    const below = under.filter(one => one != node).reverse().map(one => [getComputedStyle(one), one.tagName])
      .map(([{fill, fillOpacity, backgroundColor}, tag]) => ["rect", "path"].includes(tag)
        ? [fill == "none" ? "transparent" : fill, +fillOpacity] : [backgroundColor, 1]);
    const paper = getComputedStyle(document.body).backgroundColor;
    const back = light(pixel([[paper, 1], ...below]));
    const ink = light(pixel([[node instanceof SVGElement ? style.fill : style.color, 1]]));
    const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    const kind = node.tagName + "." + (node.getAttribute("class") || "");
    if (!(kind in found) || ratio < found[kind]) found[kind] = ratio;
  }
  return found;
})()"""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    one = Browser(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def report(place: Path) -> Path:
    return write_report(make_run(place / "long", epochs=EPOCHS, names=HARD))


@pytest.fixture(scope="module")
def both(place: Path) -> Path:
    runs = [make_run(place / "digits" / name, epochs=epochs) for name, epochs in (("one", 15), ("two", 9))]
    return write_comparison(runs, place / "both.html")


def is_quiet(browser: Browser, page: Path) -> bool:
    assert browser.complaints == []
    assert browser.requests == [page.resolve().as_uri()]
    return True


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_all_is_drawn_within_the_window(browser: Browser, report: Path, width: int, scheme: str) -> None:
    browser.open(report, width, scheme)
    assert is_quiet(browser, report)
    curves = browser.evaluate(
        """[...document.querySelectorAll("path.line")].map(path => {
          const box = path.getBBox();
          return [path.getAttribute("d").match(/[ML]/g).length, box.width * box.height, getComputedStyle(path).stroke];
        })"""
    )
    assert sorted(points for points, _, _ in curves) == [EPOCHS] * 6 + [400] * 8
    assert all(area > 100 and stroke != "none" for _, area, stroke in curves)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate("[...document.querySelectorAll('img')].every(one => one.naturalWidth > 0)")
    assert browser.evaluate(OVERLAPS) == []
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 25)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_several_runs_are_drawn_within_the_window(browser: Browser, both: Path, width: int, scheme: str) -> None:
    browser.open(both, width, scheme)
    assert is_quiet(browser, both)
    assert browser.evaluate("document.querySelectorAll('path.line').length") == 2 * LINES
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["report", "both"])
def test_all_text_can_be_read(browser: Browser, request: pytest.FixtureRequest, page: str, scheme: str) -> None:
    browser.open(request.getfixturevalue(page), 1400, scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.fit_height()
    contrasts = browser.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert {kind: ratio for kind, ratio in contrasts.items() if ratio < 4.5} == {}


def readings(browser: Browser) -> dict[str, str]:
    """What the keys of the charts say, and what epoch they say it of."""
    pairs = browser.evaluate(
        """[[".when", document.querySelector(".when output").textContent],
          ...[...document.querySelectorAll(".keyline span")].map(one => [
            one.firstChild.nextSibling.textContent.trim(), one.querySelector("b").textContent])]"""
    )
    return dict(pairs)


def test_the_crosshair_tells_the_values_of_an_epoch_in_all_charts(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert readings(browser)[".when"] == "epoch 199 of 200, the best"
    assert readings(browser)["val/top1"] == "99.50\u00a0%"  # 0.5 + 0.5 × 198/200
    box: dict[str, Any] = browser.evaluate(
        """(() => { const svg = document.querySelectorAll("svg[data-values]")[3], box = svg.getBoundingClientRect();
          const scale = box.width / svg.viewBox.baseVal.width, {left, right} = svg.dataset;
          return {x: box.left + scale * (+left + (right - left) * 50 / 200), y: box.top + box.height / 2}; })()"""
    )
    browser.move_mouse(box["x"], box["y"])
    found = readings(browser)
    assert found[".when"] == "epoch 50 of 200"
    assert found["val/top1"] == "62.25\u00a0%"  # 0.5 + 0.5 × 49/200
    assert found["val/loss"] == "0.04"
    assert found["train/loss"] == "0.5376"  # the mean of exp(-494/800) and exp(-499/800), its log points
    crosses = browser.evaluate(
        """[...document.querySelectorAll(".cross")].map(one => {
          const box = one.getBoundingClientRect(), svg = one.ownerSVGElement, {left, right} = svg.dataset;
          const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
          const at = (box.left - svg.getBoundingClientRect().left) / scale;
          return [getComputedStyle(one).visibility, (at - left) / (right - left)]; })"""
    )
    assert len(crosses) == 11
    assert all(shown == "visible" and abs(where - 0.25) < 0.005 for shown, where in crosses)
    browser.evaluate("document.querySelector('.when input').focus()")
    browser.press("ArrowRight")
    assert readings(browser)["val/top1"] == "62.50\u00a0%"
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert readings(browser)[".when"] == "epoch 49 of 200"
    assert is_quiet(browser, report)


def test_without_scripts_all_can_be_read(browser: Browser, report: Path) -> None:
    browser.open(report, scripts=False)
    assert readings(browser)[".when"] == "epoch 199 of 200, the best"
    assert readings(browser)["val/top1"] == "99.50\u00a0%"
    assert browser.evaluate("document.querySelectorAll('path.line').length") == LINES
    assert browser.evaluate("document.querySelector('.when input').getBoundingClientRect().width") == 0
    assert is_quiet(browser, report)


def test_the_policy_stops_what_is_not_ours(browser: Browser, report: Path, tmp_path: Path) -> None:
    attack = "<script>document.title = 'run'</script><img src='file:///etc/hostname'><p onclick='alert(1)'></p>"
    page = tmp_path / "attacked.html"
    page.write_text(report.read_text().replace("</main>", f"{attack}</main>"))
    browser.open(page)
    assert len(browser.complaints) == 3
    assert all("Content Security Policy" in complaint for complaint in browser.complaints)
    assert browser.evaluate("document.title") != "run"


def test_the_browser_here_does_notice_errors(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<!DOCTYPE html><script>console.log('said'); nothing.at.all</script>"
        "<img src='absent.png'><p style='width:2000px'>wide"
    )
    browser.open(page, 400)
    assert any("said" in complaint for complaint in browser.complaints)
    assert any("nothing is not defined" in complaint for complaint in browser.complaints)
    assert [url.rpartition("/")[2] for url in browser.requests] == ["wrong.html", "absent.png"]
    assert browser.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_a_drawing_stands_on_its_own(browser: Browser, place: Path, report: Path, tmp_path: Path) -> None:
    page = tmp_path / "alone.html"
    page.write_text(standalone(per_class(json.loads((place / "long" / "evaluation-test.json").read_text()))))
    browser.open(page, 400)
    assert is_quiet(browser, page)
    assert browser.evaluate("document.querySelector('.bar').getBoundingClientRect().width") == 130


def test_one_epoch_and_a_thousand_classes_are_drawn(browser: Browser, place: Path) -> None:
    page = write_report(make_run(place / "short", epochs=1, names=[f"n{number:08d}" for number in range(1000)]))
    browser.open(page, 400)
    assert is_quiet(browser, page)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate("document.querySelectorAll('circle.marker').length") == 6


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "report.html").write_text("earlier")
    (run / ".report.html").mkdir()
    with pytest.raises(RunError, match=r"report.html can't be written: Is a directory"):
        write_report(run)
    assert (run / "report.html").read_text() == "earlier"
    with pytest.raises(RunError, match="is not a run"):
        write_report(tmp_path)


def test_runs_that_cant_be_compared_are_warned_of(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", best={"monitor": "val/loss", "mode": "min"})]
    origin = json.loads((runs[1] / "provenance.json").read_text())
    (runs[1] / "provenance.json").write_text(json.dumps({**origin, "split_hash": "another"}))
    page = write_comparison(runs, tmp_path / "both.html").read_text()
    assert re.findall('<p class="warn">(.*?)</p>', page) == [
        "A and B were split differently into training and validation images: their scores can&#x27;t be compared.",
        "A and B chose their best epoch by different metrics: their scores can&#x27;t be compared.",
    ]


def test_seeds_are_told_as_in_the_terminal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "group" / "seed-1", seed_everything=1)
    (run.parent / "seeds.json").write_text(json.dumps(sum_up(run.parent)))
    for page in (write_report(run), write_comparison([run, run], tmp_path / "both.html")):
        assert '<pre tabindex="0">group  val/top1: there are no test scores\n  seed 1    93.33 %' in page.read_text()


def test_a_command_on_the_page_can_be_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs" / "my run", tested=False)
    monkeypatch.chdir(tmp_path)
    page = write_report(run).read_text()
    assert "<code>lightning test --ckpt_path &#x27;runs/my run&#x27;</code>" in page
    assert os.fspath(tmp_path) not in page
    assert base64.b64encode(b"\x89PNG").decode()[:4] not in page.partition("<h2>Validation")[0]
