"""Plots of an evaluation, and what all plots share: matplotlib, imported when needed, and a style of their own."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy

from resnet18.errors import RunError, counted
from resnet18.report.figures import LISTED, MATRIX_CLASSES, PAIRS
from resnet18.report.markup import CONTROL, columns_of, cut

BLUE, ORANGE, GREY, LIGHT = "#0072b2", "#d55e00", "#6b6b6b", "#d9d9d9"
COLOURS = (BLUE, ORANGE, "#1b7f3b", "#c2132f", "#7b3fa0", "#b8860b", "#0e8f9c", "#7a4a2b", "#e377c2", "#3b3b3b")
COUNTED = 25  # classes of a matrix whose cells have room for numbers


def pyplot() -> Any:
    """``matplotlib.pyplot``; RunError where it is not installed."""
    try:
        import matplotlib.pyplot
    except ImportError:
        raise RunError("plots need matplotlib: pip install 'resnet18[notebooks]'") from None
    # Loads the backend: a notebook's switches on that figures are shown, which the end of a style would undo.
    matplotlib.pyplot.draw_if_interactive()
    return matplotlib.pyplot


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draws in the style of this project."""

    @functools.wraps(draw)
    def call(*args: Any, **kwargs: Any) -> Any:
        with pyplot().style.context(Path(__file__).with_name("plots.mplstyle")):
            return draw(*args, **kwargs)

    return call


def plain(name: Any, columns: int = 24) -> str:
    """A name of any script in some columns, as matplotlib draws it letter by letter: a dollar would begin a formula."""
    return cut(CONTROL.sub("\ufffd", " ".join(str(name).split())), columns).replace("$", r"\$")


@styled
def pictures(images: Any, captions: Sequence[str], title: str, wrong: Any = None, over: Any = None) -> Any:
    """uint8 C×H×W images in rows of six, with captions, and floats H×W ``over`` each; returns their axes."""
    rows = max(1, -(-len(images) // 6))
    figure, grid = pyplot().subplots(rows, 6, figsize=(9, 2 * rows + 0.4), squeeze=False, layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=False)
    for number, (axes, image, caption) in enumerate(zip(grid.flat, images, captions, strict=False)):
        shown = numpy.asarray(image[: 3 if len(image) >= 3 else 1]).transpose(1, 2, 0)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
        if over is not None:
            axes.imshow(over[number], cmap="inferno", vmin=0, vmax=1, alpha=0.55)
        colour = ORANGE if wrong is not None and wrong[number] else "black"
        axes.set_title(caption, fontsize=9.5, loc="center", pad=4, color=colour)
    return grid.ravel()[: len(images)]


class Plots:
    """The plots of an :class:`~resnet18.analysis.evaluate.Evaluation`; each returns its axes."""

    @styled
    def plot_confusion(self: Any) -> Any:
        """The errors as a matrix; beyond 50 classes the pairs that are confused most often."""
        matrix, wrong = self.confusion(), self.confusion()
        numpy.fill_diagonal(wrong, 0)
        title, many = f"Errors on the {self.part} images: {wrong.sum():,} of {matrix.sum():,}", len(matrix) > COUNTED
        if len(matrix) > MATRIX_CLASSES:
            rows = self.most_confused(PAIRS)
            names = [f"{plain(row['true'])} → {plain(row['predicted'])}" for row in rows]
            axes = _listed(names, f"{title}; the commonest, true → predicted")
            axes.bar_label(axes.barh(range(len(rows)), [row["images"] for row in rows], 0.6, color=ORANGE), padding=4)
            return axes
        side = 1.2 + max(3.2, min(0.42 * len(matrix), 11))  # inches
        _, axes = pyplot().subplots(figsize=(side, side), layout="constrained")
        shown, most = numpy.where(wrong, wrong, numpy.nan), max(4, 1.5 * wrong.max())
        axes.pcolormesh(shown, cmap="Oranges", vmin=0, vmax=most, edgecolors="#dddddd", linewidth=0.8)
        for true, guess in () if many else zip(*matrix.nonzero(), strict=True):
            style = {"color": "#999999"} if guess == true else {"weight": "bold"}
            axes.text(guess + 0.5, true + 0.5, f"{matrix[true, guess]}", ha="center", va="center", **style)
        names, centres = [plain(name, 18) for name in self.class_names], numpy.arange(len(matrix)) + 0.5
        wide = max(map(columns_of, names)) > 11 * (side - 1.2) / len(names)
        axes.set_xticks(centres, names, rotation=90 if wide else 0)
        axes.set_yticks(centres, names)
        axes.tick_params(length=0, labelsize=8 if many else 11)
        axes.set(title=title, xlabel="predicted class", ylabel="true class", aspect="equal")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        return axes

    @styled
    def plot_per_class(self: Any) -> Any:
        """Accuracies with their intervals; beyond 20 classes the worst first, and 40 of them."""
        rows = self.per_class()
        rows = (sorted(rows, key=lambda row: row["accuracy"]) if len(rows) > PAIRS else rows)[:LISTED]
        worst = f"; the worst {LISTED} classes" if len(self.class_names) > len(rows) else ""
        title = f"Accuracy on the {self.part} images, %, with 95 % intervals{worst}"
        axes = _listed([f"{plain(row['class'])}  ({row['images']:,})" for row in rows], title)
        for place, row in enumerate(rows):
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=LIGHT, linewidth=5)
        axes.plot([100 * row["accuracy"] for row in rows], range(len(rows)), "o", color=BLUE, clip_on=False)
        axes.set_xlim(0, 100)
        return axes

    @styled
    def plot_reliability(self: Any) -> Any:
        """Accuracy against confidence in 15 bins; the area of a dot goes by images."""
        found = self.reliability()
        _, axes = pyplot().subplots(figsize=(5.2, 5.2), layout="constrained")
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=(0, (1, 3)))
        for images, sure, right in found["bins"]:
            if images:
                axes.plot([100 * sure, 100 * sure], [100 * sure, 100 * right], color=LIGHT, linewidth=2)
                size = 20 + 500 * images / len(self.labels)
                axes.scatter(100 * sure, 100 * right, size, BLUE, linewidth=0, clip_on=False, zorder=3)
        axes.set(title=f"Reliability, {self.part} images: calibration error {100 * found['error']:.2f} %")
        axes.set(xlabel="probability of the predicted class, %", ylabel="share of these that is right, %")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.grid()
        return axes

    def plot_worst(self: Any, n: int = 12) -> Any:
        """The images of the highest losses, errors in colour."""
        rows = self.worst(n)
        wrong = [row["true"] != row["predicted"] for row in rows]
        title = f"The {len(rows)} highest losses: true → predicted, its probability"
        return self._grid(rows, ("true", "predicted", "probability"), title, wrong)

    def plot_suspects(self: Any, n: int = 12) -> Any:
        """Images whose label may be wrong: the label, the class suggested in its place, the label's probability."""
        rows = self.suspects(n)
        title = (
            f"{counted(len(rows), 'label')} of the {self.part} images may be wrong: label (its probability) → suggested"
        )
        return self._grid(rows, ("true", "suggested", "of_true"), title)

    def _grid(self: Any, rows: Any, keys: tuple[str, str, str], title: str, wrong: Any = None) -> Any:
        values = [[row[key] for key in keys] for row in rows]
        captions = [f"{plain(here, 17)}\n→ {plain(there, 15)}\n{100 * share:.0f} %" for here, there, share in values]
        return pictures(self.images(row["index"] for row in rows), captions, title, wrong)

    @styled
    def plot_embeddings(self: Any) -> Any:
        """The embeddings' first two principal components; in colour the ten classes with most errors."""
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=0)
        points = pca.fit_transform(self.embeddings())  # N×2
        wrong = self.labels != self.predicted
        errors = numpy.bincount(self.labels[wrong], minlength=len(self.class_names))
        ranked = [label for label in numpy.argsort(-errors, kind="stable") if label in self.labels]
        _, axes = pyplot().subplots(figsize=(7, 5.6), layout="constrained")
        axes.scatter(*points.T, 10, LIGHT, linewidth=0)
        for label, colour in zip(ranked, COLOURS, strict=False):
            own = points[self.labels == label]
            axes.scatter(*own.T, 18, colour, linewidth=0)
            look = {"color": colour, "size": 13, "weight": "bold", "ha": "center", "va": "center"}
            box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 2}
            axes.text(*numpy.median(own, 0), plain(self.class_names[label]), **look, bbox=box)
        axes.scatter(*points[wrong].T, 80, facecolor="none", edgecolor="black", linewidth=0.8)
        few = f"\nin colour the {len(COLOURS)} classes with most errors" if len(ranked) > len(COLOURS) else ""
        axes.set(title=f"Embeddings of the {self.part} images, errors circled{few}", xticks=[], yticks=[])
        first, second = 100 * pca.explained_variance_ratio_
        axes.set(xlabel=f"component 1, {first:.0f} % of the variance", ylabel=f"component 2, {second:.0f} %")
        return axes


def _listed(names: Sequence[str], title: str) -> Any:
    """Axes with a line for each name, from the top."""
    figure, axes = pyplot().subplots(figsize=(8, 0.28 * len(names) + 1.2), layout="constrained")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.invert_yaxis()
    return axes
