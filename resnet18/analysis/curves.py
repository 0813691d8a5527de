"""The curves of one run, or of several in the same axes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy

from resnet18.analysis.plots import BLUE, COLOURS, GREY, ORANGE, plain, pyplot, styled
from resnet18.errors import RunError, hint
from resnet18.report.charts import TITLES
from resnet18.report.markup import is_share
from resnet18.report.run_files import Run
from resnet18.storage.overview import differences, short_names, shown

GAP = 13  # points between two labels


@styled
def plot_curves(runs: Sequence[Run], metrics: Sequence[str] = ()) -> Any:
    """A panel for each metric, or for loss, accuracy and learning rate, over epochs trained; returns the array of axes.

    Raises:
        RunError: Where nothing was logged yet.
        KeyError: For a metric that none of the runs has logged.
    """
    logged, monitor = {name: None for run in runs for name in run.series}, runs[0].seen.monitor
    if unknown := [name for name in metrics if name not in logged]:
        near = hint(unknown[0], logged) or f"; available: {', '.join(logged) or 'nothing'}"
        raise KeyError(f"{unknown[0]} was not logged{near}")
    usual = (("train/loss", "val/loss"), ("val/top1" if monitor.endswith("loss") else monitor,), ("lr",))
    panels = [[one] for one in metrics] or [[one for one in panel if one in logged] for panel in usual]
    if not any(panels):
        raise RunError(f"{runs[0].seen.directory}: nothing was logged yet")
    panels = [panel for panel in panels if panel]
    heights = [0.9 if panel == ["lr"] and len(panels) > 1 else 2.4 for panel in panels]
    size = (8, sum(heights) + 0.45 * len(panels))  # inches
    rows = {"sharex": True, "squeeze": False, "height_ratios": heights, "layout": "constrained", "figsize": size}
    figure, grid = pyplot().subplots(len(panels), 1, **rows)
    names = _names(runs)
    ends = [_panel(axes, panel, runs, names) for axes, panel in zip(grid.flat, panels, strict=True)]
    grid[-1, 0].set(xlabel="epoch", xlim=(0, max(1, *(run.epochs for run in runs))))
    grid[-1, 0].xaxis.set_major_locator(pyplot().MaxNLocator(integer=True))
    figure.draw_without_rendering()  # the layout, which says how far the labels are apart
    for axes, labels, height in zip(grid.flat, ends, heights, strict=True):
        _label(axes, labels if height > 1 else ())  # the low panel's colours are those of the others
    return grid.ravel()


def _names(runs: Sequence[Run]) -> list[str]:
    """What differs between the runs' configurations, or else the ends of their names."""
    rows = differences([run.seen.config for run in runs])
    words = short_names(rows)
    names = [" ".join(f"{words[key]}={shown(row[n])}" for key, row in rows.items()) for n in range(len(runs))]
    told_apart = len(set(names)) == len(names) and max(map(len, names)) <= 40
    return names if told_apart else [run.seen.name[-9:] for run in runs]


def _panel(axes: Any, panel: Sequence[str], runs: Sequence[Run], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Draws the curves of some metrics; returns x, y, text and colour of their ends."""
    share, alone, ends = is_share(panel[-1]), len(runs) == 1, list[tuple[Any, ...]]()
    title, every = TITLES.get(panel[0], panel[0]) + (", %" if share else ""), list[float]()
    if len(panel) > 1:
        title = "loss" if alone else "loss: train/loss thin, val/loss bold"
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        sign, watched = 1 if run.seen.mode == "max" else -1, run.series.get(run.seen.monitor, ())
        scored = [(sign * y, x) for x, y in watched if math.isfinite(y)]  # of equal ones the last is kept
        for metric in panel:
            points = [(x, 100 * y if share else y) for x, y in run.series.get(metric, ()) if math.isfinite(y)]
            if not points:
                continue
            own = {"train": BLUE, "lr": GREY}.get(metric.partition("/")[0], ORANGE)
            colour = own if alone else COLOURS[number % len(COLOURS)]
            thin = metric.startswith("train/") and len(panel) > 1 and not alone
            marker = "o" if len(points) == 1 or (metric.startswith("val/") and len(points) <= 40) else ""
            style = {"linewidth": 0.9 if thin else 1.8, "marker": marker, "markersize": 3.5, "clip_on": False}
            axes.plot(*zip(*points, strict=True), color=colour, **style)
            every += [y for _, y in points]
            if not thin and (len(panel) > 1 or not alone):
                ends.append((*points[-1], plain(metric if alone else name, 32), colour))
            if scored and metric.startswith("val/") and (y := dict(points).get(best := max(scored)[1])) is not None:
                axes.plot(best, y, "o", markersize=9, markerfacecolor="none", color=colour, clip_on=False)
                if alone and metric == run.seen.monitor and len(panel) == 1:
                    title += f": best {f'{y:.2f}' if share else f'{y:.4g}'} in epoch {math.ceil(best)}"
    axes.set_title(plain(title, 80))
    axes.grid(axis="y")
    if not every:
        return ends
    if share and every[-1] > 90:  # stretched towards 100 % like the logarithm of the error; 102 keeps 100 % finite
        axes.set_yscale("function", functions=(lambda y: -numpy.log(102 - y), lambda y: 102 - numpy.exp(-y)))
        axes.set_yticks([0, 50, 80, 90, 95, 98, 100])
        axes.set_ylim(0, 100)
    elif 0 <= min(every) < 0.6 * max(every):
        axes.set_ylim(bottom=0)
    return ends


def _label(axes: Any, ends: Sequence[tuple[Any, ...]]) -> None:
    """Names the curves at their ends, apart from each other."""
    points = 72 / axes.figure.dpi  # of a pixel
    placed = sorted((axes.transData.transform(end[:2])[1] * points, *end) for end in ends)
    heights = [height for height, *_ in placed]
    for number in range(1, len(heights)):
        heights[number] = max(heights[number], heights[number - 1] + GAP)
    shift = (sum(heights) - sum(height for height, *_ in placed)) / max(len(heights), 1)
    for height, (own, x, y, name, colour) in zip(heights, placed, strict=True):
        style = {"textcoords": "offset points", "color": colour, "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, y), (8, height - own - shift), **style)
