"""Which curves share a chart, and charts as inline SVG, which ``page.js`` only adds a crosshair to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resnet18.report.markup import columns_of, cut, is_share, number, text
from resnet18.report.run_files import Points, Run

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 440, 230, 50, 16, 24  # px
POINTS = 400  # of a curve at most, and epochs at most that the crosshair stops at
SPREAD = 30  # times from the 5th to the 95th percentile: from here on an axis is logarithmic
COLOURS, NAME = 6, 9  # NAME: columns of one at the end of its curve
TITLES = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "weight_norm": "weight norm",
    "images_per_s": "images/s",
    "step_ms": "step, ms",
    "memory_gb": "memory, GB",
}
FIRST = ("loss", "accuracy", "val/", "train/", "learning", "lr", "gradient")  # starts of titles
LAST = tuple(TITLES.values())[2:]  # the others stand between, in the order of metrics.csv
FROM_ZERO = ("images_per_s", "step_ms", "memory_gb")


@dataclass(frozen=True)
class Line:
    """A curve of a metric: x in epochs trained."""

    metric: str
    label: str
    short: str  # at its end
    points: Points
    colour: int = 0  # from 6 on they come again, dashed
    ring: int | None = None  # around the value of this epoch, from 1


def curves(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The charts and what moves their crosshair; of several runs a chart for each metric, with their names in it."""
    epochs, drawn, alone = max(run.epochs for run in runs), dict[str, list[Line]](), len(runs) == 1
    for position, (run, name) in enumerate(zip(runs, names, strict=True)):
        for metric, points in run.series.items():
            if metric.startswith(("best/", "test/")):  # the best values are marked, and a test measures once
                continue
            lines = drawn.setdefault(title_of(metric) if alone else TITLES.get(metric, metric), [])
            ring = run.best if metric.startswith("val/") else None
            if alone:
                part, _, last = metric.rpartition("/")
                short = part if part in ("train", "val") and not is_share(metric) else last
                colour = 1 if part == "train" else 2 * sum(line.colour != 1 for line in lines)
                lines.append(Line(metric, metric, short, points, colour, ring))
            else:
                lines.append(Line(metric, name, name, points, position, ring))
    if not drawn:
        return '<p class="note">Nothing was logged.</p>'
    best, readings = runs[0].best if alone else None, stops(epochs)
    shown = max(stop for stop in readings if stop <= (best or epochs))
    order = sorted(drawn, key=lambda title: [*(not title.startswith(start) for start in FIRST), title in LAST])
    charts = "".join(chart(title, drawn[title], epochs, shown, best) for title in order)
    said = f"epoch {shown} of {epochs}{', the best' if shown == best else ''}"
    return (
        f'<div class="when" data-stops="{text(readings)}" data-epochs="{epochs}" data-shown="{shown}" '
        f'data-best="{best or 0}"><span>Values at <output>{said}</output></span>'
        f'<input type="range" min="0" aria-label="epoch" hidden></div><div class="charts">{charts}</div>'
    )


def title_of(metric: str) -> str:
    """The chart that a metric of a single run belongs to."""
    name = "lr" if metric.startswith("lr/") else metric.removeprefix("train/").removeprefix("val/")
    return "accuracy" if is_share(metric) else TITLES.get(name, name)


def stops(epochs: int) -> list[int]:
    """The epochs at which the crosshair stops, from 1: all of them, or some 400."""
    return list(range(1, epochs + 1, math.ceil(epochs / POINTS)))


def by_epoch(points: Points) -> dict[int, float]:
    """The mean of each epoch's finite values; NaN where none is."""
    found: dict[int, list[float]] = {}
    for x, value in points:
        found.setdefault(math.ceil(x - 1e-9), []).extend([value] if math.isfinite(value) else [])
    return {epoch: sum(values) / len(values) if values else math.nan for epoch, values in found.items()}


def thinned(points: Points) -> Points:
    """At most 400 points: means of as many in a row as it takes."""
    each = math.ceil(len(points) / POINTS)
    groups = [points[start : start + each] for start in range(0, len(points), each)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def round_step(length: float, count: int) -> float:
    """The step, 1, 2, 2.5 or 5 times a power of ten, that divides a length into about so many."""
    raw = length / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))


def value_axis(values: Sequence[float], metric: str) -> tuple[float, float, list[float], bool]:
    """Round ends, ticks, and whether it is logarithmic, as for a loss or norm that spans orders of magnitude."""
    ranked = sorted(values)
    low, high = ranked[0], ranked[-1]
    steep = ranked[int(0.95 * len(ranked) - 0.01)] > SPREAD * ranked[int(0.05 * len(ranked))]
    if metric.endswith(("loss", "norm")) and low > 0 and steep:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = math.ceil(len(decades) / 5)
        steps = (1, 2, 5) if len(decades) <= 3 else (1,)
        ticks = [step * 10.0**power for power in decades if power % every == 0 for step in steps]
        return low / 1.1, high * 1.1, [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1], True
    if low == high == 0:
        high = 1.0
    elif 0 <= low < 0.6 * high or (metric in FROM_ZERO and low > 0):
        low = 0.0
    elif low == high:
        low, high = low - (abs(low) * 0.1 or 1), high + (0 if is_share(metric) else abs(high) * 0.1 or 1)
    step = round_step(high - low, 4)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return first * step, last * step, [tick * step for tick in range(first, last + 1)], False


def kind_of(colour: int) -> str:
    """The class of a curve, and of the short piece of it beside its name."""
    return f"c{colour % COLOURS}{' dashed' if colour >= COLOURS else ''}"


def chart(title: str, lines: Sequence[Line], epochs: int, shown: int, best: int | None = None) -> str:
    """A figure: title, a key with the values at the epoch ``shown``, and the curves, with a mark at the epoch ``best``.

    The first curve's metric decides on the axis; of curves without a finite value nothing is drawn.
    """
    metric = lines[0].metric
    values = [value for line in lines for _, value in line.points if math.isfinite(value)]
    readings = [by_epoch(line.points) for line in lines]
    key = "".join(
        f'<span><i class="{kind_of(line.colour)}"></i>{text(line.label)} <b>{number(one.get(shown), metric)}</b></span>'
        for line, one in zip(lines, readings, strict=True)
    )
    key = f'<div class="keyline">{key}</div>'
    if not values:
        return f'<figure class="chart"><h3>{text(title)}</h3>{key}<p class="note">no finite value</p></figure>'
    ends = [columns_of(line.short) for line in lines] if 1 < len(lines) <= 8 else []
    right = WIDTH - 10 - 7 * min(max(ends, default=0), NAME)
    frame = _Frame(*value_axis(values, metric), epochs, right)
    data = "|".join(";".join(number(one.get(epoch), metric) for epoch in stops(epochs)) for one in readings)
    note = " <span class='quiet'>log scale</span>" if frame.is_log else ""
    drawn = "".join(map(frame.curve, lines))
    return (
        f'<figure class="chart"><h3>{text(title)}{note}</h3>{key}'
        f'<svg role="img" aria-label="{text(title)} by epoch" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'data-left="{LEFT}" data-right="{right}" data-epochs="{epochs}" data-values="{text(data)}">'
        f"{frame.axes(metric)}{frame.best(best) if best else ''}{drawn}{frame.ends(lines) if ends else ''}"
        f'<path class="cross" d="M0 {TOP}V{HEIGHT - BOTTOM}"/></svg></figure>'
    )


@dataclass(frozen=True)
class _Frame:
    """The rectangle that curves are drawn in, up to ``right``."""

    low: float
    high: float
    ticks: list[float]
    is_log: bool
    epochs: int
    right: int

    def x(self, epoch: float) -> float:
        return LEFT + (self.right - LEFT) * epoch / self.epochs

    def y(self, value: float) -> float | None:
        if not math.isfinite(value) or (self.is_log and value <= 0):
            return None
        low, high, here = map(math.log10 if self.is_log else float, (self.low, self.high, value))
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (here - low) / (high - low)

    def axes(self, metric: str) -> str:
        drawn = ""
        for tick in self.ticks:
            y, label = self.y(tick) or 0, f"{100 * tick:g} %" if is_share(metric) else f"{tick:,g}"
            drawn += f'<path class="grid" d="M{LEFT} {y:.1f}H{self.right:.1f}"/>'
            drawn += f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        for epoch in range(0, self.epochs + 1, math.ceil(round_step(self.epochs, 5))):
            x, y = self.x(epoch), HEIGHT - 6
            drawn += f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{epoch:,}</text>'
        return drawn

    def curve(self, line: Line) -> str:
        path, pen = "", "M"
        for x, value in thinned(line.points):
            y = self.y(value)
            path, pen = (path, "M") if y is None else (f"{path}{pen}{self.x(x):.1f} {y:.1f}", "L")
        drawn = f'<path class="line {kind_of(line.colour)}" d="{path}"/>'
        placed = [(x, y) for x, value in line.points if (y := self.y(value)) is not None]
        for x, y in placed:
            if x == line.ring or len(placed) == 1:
                drawn += f'<circle class="marker {kind_of(line.colour)}" cx="{self.x(x):.1f}" cy="{y:.1f}" r="3.5"/>'
        return drawn

    def best(self, epoch: int) -> str:
        x = self.x(epoch)
        anchor = "end" if x > self.right - 20 else "middle"
        label = f'<text class="tick" x="{x:.1f}" y="{TOP - 5}" text-anchor="{anchor}">best</text>'
        return f'<path class="best" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>{label}'

    def ends(self, lines: Sequence[Line]) -> str:
        """Each curve's name at its end, moved until none covers another."""
        places = []
        for line in lines:
            finite = [(y, self.x(x)) for x, value in thinned(line.points) if (y := self.y(value)) is not None]
            places += [(*finite[-1], text(cut(line.short, NAME)))] if finite else []
        drawn, above, lowest = "", TOP - 13.0, HEIGHT - BOTTOM - 13 * (len(places) - 1)
        for position, (y, x, name) in enumerate(sorted(places)):
            if x < self.right - 20:  # ended early: above its end, for the other curves go on beside it
                drawn += f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{name}</text>'
                continue
            above = min(max(y, above + 13), lowest + 13 * position)
            drawn += f'<text x="{self.right + 7}" y="{above + 4:.1f}">{name}</text>'
        return drawn
