"""The plots of an evaluation, for two classes and for many, with names that matplotlib could take for formulas."""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy
import pytest
from python_runs import Mislabelled, python_run

from resnet18 import load_run
from resnet18.analysis.evaluate import Evaluation
from resnet18.analysis.plots import COLOURS, plain
from resnet18.errors import RunError

matplotlib.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
NAMES = {
    "two": ("red_ball_", "big box $5"),
    "other scripts": ("猫", "$a$ and $b$", "<b>bold</b>", "a name that is longer than any label", "кошка", r"\\alpha"),
    "many": tuple(f"class_{number} $" for number in range(120)),
}


@pytest.fixture(scope="module", params=NAMES)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Of a network that was hardly trained."""
    names = NAMES[request.param]
    data = Mislabelled(names, each=4 if len(names) > 20 else 20)
    return python_run(tmp_path_factory.mktemp("run") / "model.ckpt", data).evaluate()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # what can't be drawn fails here
    plt.close("all")
    assert dict(matplotlib.rcParams) == before  # the user's style is left alone


def wrong(found: Evaluation) -> int:
    return int((found.labels != found.predicted).sum())


def test_the_confusion(found: Evaluation) -> None:
    axes, matrix = found.plot_confusion(), found.confusion()
    title = axes.get_title("left") or axes.figure.get_suptitle()
    assert title.startswith(f"Errors on the val images: {wrong(found)} of {len(found.labels)}")
    labels = [label.get_text() for label in axes.get_yticklabels()]
    if len(matrix) > 50:
        pairs = found.most_confused(20)
        assert labels == [f"{plain(row['true'])} → {plain(row['predicted'])}" for row in pairs]
        assert [bar.get_width() for bar in axes.patches] == [row["images"] for row in pairs]
        return
    assert labels == [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [plain(name, 18) for name in found.class_names]
    written = {(round(text.get_position()[1] - 0.5), round(text.get_position()[0] - 0.5)): text for text in axes.texts}
    assert {place: int(text.get_text()) for place, text in written.items()} == {
        (int(a), int(b)): int(matrix[a, b]) for a, b in zip(*matrix.nonzero(), strict=True)
    }


def test_each_class_with_its_interval(found: Evaluation) -> None:
    axes, rows = found.plot_per_class(), list(found.per_class())
    if len(rows) > 20:
        rows = sorted(rows, key=lambda row: row["accuracy"])[:40]
        assert "the worst 40 classes" in axes.figure.get_suptitle()
    *intervals, dots = axes.lines
    assert list(dots.get_xdata()) == [100 * row["accuracy"] for row in rows]
    assert [list(line.get_xdata()) for line in intervals] == [[100 * row["low"], 100 * row["high"]] for row in rows]
    assert axes.get_yticklabels()[0].get_text() == f"{plain(rows[0]['class'])}  ({rows[0]['images']})"


def test_the_reliability(found: Evaluation) -> None:
    axes, calibration = found.plot_reliability(), found.reliability()
    filled = [(100 * sure, 100 * right) for images, sure, right in calibration["bins"] if images]
    assert numpy.allclose([dot.get_offsets()[0] for dot in axes.collections], filled)
    assert f"calibration error {100 * calibration['error']:.2f} %" in axes.get_title("left")


def test_the_worst_and_the_suspects(found: Evaluation) -> None:
    axes, rows = found.plot_worst(8), found.worst(8)
    assert len(axes) == 8
    for one, row in zip(axes, rows, strict=True):
        name, *_, share = one.get_title("center").split("\n")
        assert name == plain(row["true"], 17)
        assert share == f"{100 * row['probability']:.0f} %"
        assert numpy.array_equal(one.images[0].get_array(), found.images([row["index"]])[0].permute(1, 2, 0))
    colours = {one.title.get_color() for one, row in zip(axes, rows, strict=True) if row["true"] != row["predicted"]}
    assert len(colours) == 1
    suspects = found.suspects(8)
    axes = found.plot_suspects(8)
    assert [one.get_title("center").split("\n")[1] for one in axes] == [
        f"→ {plain(row['suggested'], 15)}" for row in suspects
    ]


def test_the_embeddings(found: Evaluation) -> None:
    axes, present = found.plot_embeddings(), len(set(found.labels.tolist()))
    every, *named, circled = axes.collections
    points = every.get_offsets()
    assert len(points) == len(found.labels)
    assert len(circled.get_offsets()) == wrong(found)
    assert len(named) == len(axes.texts) == min(present, len(COLOURS))
    vectors = found.embeddings() - found.embeddings().mean(0)
    values = numpy.linalg.svd(vectors, compute_uv=False) ** 2
    assert numpy.allclose((points**2).sum(0), values[:2], rtol=1e-2)
    assert axes.get_xlabel() == f"component 1, {100 * values[0] / values.sum():.0f} % of the variance"


def test_one_image_is_drawn_too() -> None:
    one = numpy.array([[0.5, 0.5]], numpy.float32)
    alone = Evaluation("val", ["a", "b"], ["0"], numpy.array([1]), one, numpy.array([0]), one[0, :1], {}, None)
    for draw in (alone.plot_confusion, alone.plot_per_class, alone.plot_reliability):
        assert draw().figure


def test_a_name_is_drawn_letter_by_letter() -> None:
    for name in ("$", "$5", "$a$", r"\$", "a_b^c", r"$\frac"):
        figure = plt.figure()
        drawn, letters = figure.text(0, 0, plain(name)), figure.text(0, 0, name, parse_math=False)
        assert drawn.get_window_extent().bounds == letters.get_window_extent().bounds
    assert plain("a\nb\x00\ud800") == "a b\ufffd\ufffd"
    assert plain("x" * 30) == "x" * 23 + "…"


def test_without_matplotlib_a_line_says_what_to_install(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    run = load_run(trained)
    images = numpy.zeros((1, 8, 8), numpy.uint8)[..., None]
    for draw in (run.plot, lambda: run.plot_activation(images)):
        with pytest.raises(RunError, match=r"^plots need matplotlib: pip install 'resnet18\[notebooks\]'$"):
            draw()
    assert len(run.predict(images)) == 1
