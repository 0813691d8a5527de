"""Follows a run while it trains, wherever that is: by the files of its directory alone."""

import base64
import contextlib
import io
import time
from pathlib import Path
from textwrap import shorten
from typing import Any

from resnet18.analysis.curves import plot_curves
from resnet18.analysis.plots import plain, pyplot
from resnet18.engine.stopping import ipython
from resnet18.errors import counted, written
from resnet18.report.charts import by_epoch
from resnet18.report.run_files import Run, read_run
from resnet18.storage.overview import leaves
from resnet18.storage.status import RUNNING

SHOWN = ("train/loss", "val/loss", "val/top1")  # in a terminal, beside the monitored metric


def watch(directory: Path, every: float = 2.0) -> None:
    """Shows a run every few seconds, until it has ended or the watching is interrupted: then the run goes on.

    A notebook's curves are redrawn in place, elsewhere a line is printed each epoch. RunError where there is no run.
    """
    before = handle = None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            run = read_run(directory)
            # A directory is a moment older than its status.
            ended = run.seen.state != RUNNING and bool(run.seen.status or run.epochs or before)
            if not hasattr(ipython(), "kernel"):
                _print(run, before, ended)
            elif before is None or ended or run.series != before.series:
                handle = _redraw(run, handle)
            if ended:
                return
            before = run
            time.sleep(every)


def standing(run: Run) -> str:
    """State, epoch and best score of a run, in a line."""
    seen, reason = run.seen, shorten(run.seen.status.get("reason") or "", 60)
    epochs = f"epoch {run.epochs:,} of {seen.planned:,}" if seen.planned else counted(run.epochs, "epoch")
    best = "" if seen.best is None else f", best {seen.monitor} {written(seen.monitor, seen.best)} in epoch {run.best}"
    return f"{seen.experiment}/{seen.name}: {seen.state}{f' ({reason})' if reason else ''}, {epochs}{best}"


def described(directory: Path) -> list[str]:
    """What one wants to know of a run: its standing, its test, its network."""
    run = read_run(directory)
    tested = [f"{name} {written(name, value)}" for name, value in run.seen.test.items()]
    network = str(leaves(run.seen.config).get("model.backbone")).rpartition(".")[2]
    parameters = f"{network}, {run.seen.provenance.get('parameters', 0):,} parameters"
    return [standing(run), "  ".join(tested) or "not tested", parameters]


def _print(run: Run, before: Run | None, ended: bool) -> None:
    """Prints a line for each epoch that was left behind since ``before``."""
    series = {name: by_epoch(points) for name, points in run.series.items()}
    for epoch in range(max(before.epochs if before else 1, 1), run.epochs + ended):
        names = [name for name in dict.fromkeys((*SHOWN, run.seen.monitor)) if epoch in series.get(name, ())]
        scores = "  ".join(f"{name} {written(name, series[name][epoch])}" for name in names)
        print(f"epoch {epoch}/{run.seen.planned or '?'}  {scores}", flush=True)
    if ended:
        print(standing(run), flush=True)


def _redraw(run: Run, handle: Any) -> Any:
    """Shows a run in the cell's output, or in place of what the handle has shown; returns the handle."""
    from IPython.display import display

    content, width = {"text/plain": standing(run)}, 0
    if run.series:
        figure, file = plot_curves([run])[0].figure, io.BytesIO()
        figure.suptitle(plain(standing(run), 200), x=0.01, ha="left", fontsize=10)
        figure.savefig(file, format="png", dpi=2 * figure.dpi)
        pyplot().close(figure)  # else the notebook would show it once more at the cell's end
        content["image/png"], width = base64.b64encode(file.getvalue()).decode(), round(figure.bbox.width)
    how = {"raw": True, "metadata": {"image/png": {"width": width}}}
    if handle is None:
        return display(content, display_id=True, **how)
    handle.update(content, **how)
    return handle
