"""Which metrics share a chart, for one run and for several laid over each other."""

from collections.abc import Sequence

from resnet18.report.charts import FROM_ZERO, LINEAR, LOG, SHARE, Line, chart, stops
from resnet18.report.markup import is_share, text
from resnet18.report.run_files import Run

TITLES = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "weight_norm": "weight norm",
    "images_per_s": "images/s",
    "step_ms": "step, ms",
    "memory_gb": "memory, GB",
}
FIRST = ("loss", "accuracy", "val/", "train/", "learning", "lr")  # the others stand in the order of metrics.csv


def metrics(runs: Sequence[Run]) -> list[str]:
    """What is drawn of runs: all that was logged but the best values, which are marked, and what a test measured."""
    names = dict.fromkeys(name for run in runs for name in run.series)
    return [name for name in names if not name.startswith(("best/", "test/"))]


def title_of(metric: str) -> str:
    """The chart that a metric of a single run belongs to."""
    part, _, last = metric.rpartition("/")
    if is_share(metric):
        return "accuracy"
    name = last if part in ("train", "val") else metric.partition("/")[0] if metric.startswith("lr/") else metric
    return TITLES.get(name, name)


def curves(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The charts and what moves their crosshair; of several runs a chart for each metric, with a curve for each run.

    Args:
        runs: One run, or those to lay over each other.
        names: What each of several is called in the charts.
    """
    epochs, drawn = max(run.epochs for run in runs), dict[str, list[Line]]()
    if not epochs or not metrics(runs):
        return '<p class="note">Nothing was logged.</p>'
    best = runs[0].best if len(runs) == 1 else None
    shown = max((stop for stop in stops(epochs) if stop <= (best or epochs)), default=1)
    scales: dict[str, str] = {}
    for metric in metrics(runs):
        title = title_of(metric) if len(runs) == 1 else TITLES.get(metric, metric)
        scales[title] = scale_of(metric)
        lines = drawn.setdefault(title, [])
        for position, (run, name) in enumerate(zip(runs, names, strict=True)):
            if metric not in run.series:
                continue
            if len(runs) == 1:
                name, short = metric, _last(metric)
                colour = 1 if metric.startswith("train/") else 2 * sum(line.colour != 1 for line in lines)
            else:
                colour, short = position, name
            points, ring = run.series[metric], metric.startswith("val/")
            lines.append(Line(name, points, colour, run.best, ring, short))
    order = sorted(drawn, key=lambda title: [not title.startswith(start) for start in FIRST])
    charts = "".join(chart(title, drawn[title], epochs, shown, scales[title]) for title in order)
    said = f"epoch {shown} of {epochs}{', the best' if shown == best else ''}"
    return (
        f'<div class="when" data-stops="{text(stops(epochs))}" data-epochs="{epochs}" data-shown="{shown}" '
        f'data-best="{best or 0}"><span>Values at <output>{said}</output></span>'
        f'<input type="range" min="0" aria-label="epoch" hidden></div><div class="charts">{charts}</div>'
    )


def scale_of(metric: str) -> str:
    """A learning rate is known by its shape, a loss by its orders of magnitude; speed and memory start from 0."""
    if is_share(metric):
        return SHARE
    if metric in ("images_per_s", "step_ms", "memory_gb"):
        return FROM_ZERO
    return LOG if metric.endswith(("loss", "norm")) else LINEAR


def _last(metric: str) -> str:
    part, _, last = metric.rpartition("/")
    return last if is_share(metric) or part not in ("train", "val") else part
