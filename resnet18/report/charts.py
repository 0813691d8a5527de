"""A chart of curves as inline SVG. It can be read as it is; ``page.js`` moves the crosshair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resnet18.report.markup import columns_of, cut, number, text

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 440, 230, 50, 16, 24  # px
POINTS = 400  # of a curve at most, and epochs at most that the crosshair stops at
SPREAD = 30  # times from the 5th to the 95th percentile: from here on an axis is logarithmic
COLOURS = 6
SHARE, LINEAR, FROM_ZERO, LOG = "share", "linear", "from zero", "log"

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A curve: x in epochs trained."""

    label: str
    points: Points
    colour: int = 0  # from 6 on they come again, dashed
    best: int | None = None  # epoch to mark, from 1
    ring: bool = False  # around the value there
    short: str = ""  # name at its end


@dataclass(frozen=True)
class Axis:
    """From a value to a share of the axis's length; None for what has no place on it."""

    low: float
    high: float
    ticks: list[float]
    is_log: bool = False

    def place(self, value: float) -> float | None:
        if not math.isfinite(value) or (self.is_log and value <= 0):
            return None
        scale = math.log10 if self.is_log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


def stops(epochs: int) -> list[int]:
    """The epochs at which the crosshair stops, from 1: all of them, or some 400."""
    return list(range(1, epochs + 1, math.ceil(epochs / POINTS) or 1))


def by_epoch(points: Points) -> dict[int, float]:
    """The mean of each epoch's finite values; NaN where none is."""
    found: dict[int, list[float]] = {}
    for x, value in points:
        found.setdefault(math.ceil(x - 1e-9), []).append(value)
    finite = {epoch: [value for value in values if math.isfinite(value)] for epoch, values in found.items()}
    return {epoch: sum(values) / len(values) if values else math.nan for epoch, values in finite.items()}


def thinned(points: Points) -> Points:
    """At most 400 points: means of as many in a row as it takes."""
    each = math.ceil(len(points) / POINTS)
    groups = [points[start : start + each] for start in range(0, len(points), each or 1)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def round_step(length: float, count: int) -> float:
    """The step, 1, 2, 2.5 or 5 times a power of ten, that divides a length into about so many."""
    raw = length / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))


def value_axis(values: Sequence[float], scale: str) -> Axis:
    """An axis with round ends around finite values."""
    ranked = sorted(values)
    low, high = ranked[0], ranked[-1]
    if scale == LOG and low > 0 and ranked[int(0.95 * len(ranked) - 0.01)] > SPREAD * ranked[int(0.05 * len(ranked))]:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = math.ceil(len(decades) / 5)
        steps = (1, 2, 5) if len(decades) <= 3 else (1,)
        ticks = [step * 10.0**power for power in decades if power % every == 0 for step in steps]
        return Axis(low / 1.1, high * 1.1, [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1], is_log=True)
    if low == high == 0:
        high = 1.0
    elif 0 <= low < 0.6 * high or (scale == FROM_ZERO and low > 0):
        low = 0.0
    elif low == high:
        low, high = low - (abs(low) * 0.1 or 1), high + (0 if scale == SHARE else abs(high) * 0.1 or 1)
    step = round_step(high - low, 4)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return Axis(first * step, last * step, [tick * step for tick in range(first, last + 1)])


def swatch(colour: int) -> str:
    """A short piece of a curve, beside its name."""
    return f'<i class="{_kind(colour)}"></i>'


def _kind(colour: int) -> str:
    return f"c{colour % COLOURS}{' dashed' if colour >= COLOURS else ''}"


def chart(title: str, lines: Sequence[Line], epochs: int, shown: int, scale: str = LINEAR) -> str:
    """A figure: title, a key with the values at the epoch ``shown``, and the curves.

    Args:
        title: Above it.
        lines: Its curves; in one without a finite value nothing is drawn.
        epochs: The length of its x axis.
        shown: An epoch, from 1.
        scale: SHARE, LINEAR, FROM_ZERO, or LOG where values over orders of magnitude get a logarithmic axis.
    """
    is_share = scale == SHARE
    values = [value for line in lines for _, value in line.points if math.isfinite(value)]
    told = [by_epoch(line.points) for line in lines]
    key = "".join(
        f"<span>{swatch(line.colour)}{text(line.label)} <b>{number(values_of.get(shown), is_share)}</b></span>"
        for line, values_of in zip(lines, told, strict=True)
    )
    if not values:
        note = '<p class="note">no finite value</p>'
        return f'<figure class="chart"><h3>{text(title)}</h3><div class="keyline">{key}</div>{note}</figure>'
    axis = value_axis(values, scale)
    ends = [line.short for line in lines] if 1 < len(lines) <= 8 else []
    right = WIDTH - 10 - (7 * min(max(map(columns_of, ends)), 9) if ends else 0)
    scaled = _Frame(axis, epochs, right)
    data = "|".join(";".join(number(values_of.get(epoch), is_share) for epoch in stops(epochs)) for values_of in told)
    note = " <span class='quiet'>log scale</span>" if axis.is_log else ""
    drawn = "".join(scaled.curve(line) for line in lines)
    return (
        f'<figure class="chart"><h3>{text(title)}{note}</h3><div class="keyline">{key}</div>'
        f'<svg role="img" aria-label="{text(title)} by epoch" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'data-left="{LEFT}" data-right="{right}" data-epochs="{epochs}" data-values="{text(data)}">'
        f"{scaled.axes(is_share)}{scaled.best(lines)}{drawn}{scaled.ends(lines) if ends else ''}"
        f'<path class="cross" d="M0 {TOP}V{HEIGHT - BOTTOM}"/></svg></figure>'
    )


class _Frame:
    """The rectangle that curves are drawn in."""

    def __init__(self, axis: Axis, epochs: int, right: float) -> None:
        self.axis, self.epochs, self.right = axis, epochs, right

    def x(self, epoch: float) -> float:
        return LEFT + (self.right - LEFT) * epoch / self.epochs

    def y(self, value: float) -> float | None:
        place = self.axis.place(value)
        return None if place is None else HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * place

    def axes(self, is_share: bool) -> str:
        drawn = []
        for tick in self.axis.ticks:
            y = self.y(tick) or 0
            label = f"{100 * tick:g} %" if is_share else f"{tick:,g}"
            drawn.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{self.right:.1f}"/>')
            drawn.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        drawn += [
            f'<text class="tick" x="{self.x(epoch):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{epoch:,}</text>'
            for epoch in range(0, self.epochs + 1, math.ceil(round_step(self.epochs, 5)))
        ]
        return "".join(drawn)

    def curve(self, line: Line) -> str:
        path, pen = [], "M"
        for x, value in thinned(line.points):
            y = self.y(value)
            if y is not None:
                path.append(f"{pen}{self.x(x):.1f} {y:.1f}")
            pen = "M" if y is None else "L"
        kind = _kind(line.colour)
        drawn = f'<path class="line {kind}" d="{"".join(path)}"/>'
        alone = [point for point in line.points if math.isfinite(point[1])]
        marks = {alone[0][0]: alone[0][1]} if len(alone) == 1 else {}
        if line.ring:
            marks |= {x: value for x, value in line.points if x == line.best}
        for x, value in marks.items():
            if (y := self.y(value)) is not None:
                drawn += f'<circle class="marker {kind}" cx="{self.x(x):.1f}" cy="{y:.1f}" r="3.5"/>'
        return drawn

    def best(self, lines: Sequence[Line]) -> str:
        """A vertical line at the best epoch, where there is one for all."""
        marked = {line.best for line in lines}
        best = marked.pop()
        if marked or best is None:
            return ""
        x = self.x(best)
        anchor = "end" if x > self.right - 20 else "middle"
        label = f'<text class="tick" x="{x:.1f}" y="{TOP - 5}" text-anchor="{anchor}">best</text>'
        return f'<path class="best" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>{label}'

    def ends(self, lines: Sequence[Line]) -> str:
        """Each curve's name at its end, moved until none covers another."""
        places = []
        for line in lines:
            finite = [(y, self.x(x)) for x, value in thinned(line.points) if (y := self.y(value)) is not None]
            places += [(*finite[-1], line.short)] if finite else []
        drawn, above = "", TOP - 13.0
        places.sort()
        lowest = HEIGHT - BOTTOM - 13 * (len(places) - 1)
        for position, (y, x, short) in enumerate(places):
            if x < self.right - 20:  # ended early: above its end, for the other curves go on beside it
                drawn += f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{text(cut(short, 9))}</text>'
                continue
            above = min(max(y, above + 13), lowest + 13 * position)
            drawn += f'<text x="{self.right + 7:.1f}" y="{above + 4:.1f}">{text(cut(short, 9))}</text>'
        return drawn
