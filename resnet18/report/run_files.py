"""All that a page shows of a run, read from its directory; what can't be read is noted, and the rest is shown."""

import base64
import csv
import io
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet18.errors import RunError
from resnet18.report.seed_groups import SEEDS
from resnet18.storage.overview import Overview, overview
from resnet18.storage.records import METRICS, read_evaluation, read_json

LARGEST, WIDEST = 8_000, 1_200  # bytes and pixels; a larger picture is shown as a JPEG

Points = list[tuple[float, float]]  # epochs trained when it was measured, 0.5 or 3, and the value


@dataclass(frozen=True)
class Run:
    """A run's own files; what is not there is empty."""

    seen: Overview
    series: dict[str, Points]  # by metric, in the order of metrics.csv
    val: dict[str, Any]
    test: dict[str, Any]
    seeds: dict[str, Any]  # of the group that the run is in
    problems: list[str]

    @property
    def place(self) -> str:
        """Its directory as one types it here."""
        here, directory = Path.cwd(), self.seen.directory
        return shlex.quote(str(directory.relative_to(here) if directory.is_relative_to(here) else directory))

    @cached_property
    def epochs(self) -> int:
        """Trained, the last maybe in part."""
        return max((math.ceil(points[-1][0]) for points in self.series.values()), default=0)

    @property
    def best(self) -> int | None:
        """The best epoch, from 1."""
        return None if self.seen.best_epoch is None else self.seen.best_epoch + 1


def read_run(directory: Path) -> Run:
    """Reads a run.

    Raises:
        RunError: For a directory that is none.
    """
    seen = overview(directory)
    problems = list(seen.problems)

    def kept(read: Callable[..., dict[str, Any] | None], *arguments: Any) -> dict[str, Any]:
        try:
            return read(*arguments) or {}
        except (RunError, OSError, csv.Error) as error:
            problems.append(str(error))
            return {}

    series = kept(_series, seen.directory / METRICS, problems)
    val, test = (kept(read_evaluation, seen.directory, part) for part in ("val", "test"))
    return Run(seen, series, val, test, kept(read_json, seen.directory.parent / SEEDS), problems)


def _series(path: Path, problems: list[str]) -> dict[str, Points]:
    """Each metric's points; rows that a kill, or an editor, has left unreadable are left out, and that is noted."""
    if not path.is_file():
        return {}
    lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8", errors="replace").replace("\0", "")))
    header, torn = next(lines, []), 0
    rows: list[tuple[int, float, dict[str, float]]] = []
    for cells in lines:
        try:
            row = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
            rows.append((int(row.pop("epoch")), row.pop("step"), row))
        except (ValueError, OverflowError, LookupError):
            torn += 1
    if torn:
        problems.append(f"{path}: {torn} of its rows can't be read")
    ends = {epoch: step for epoch, step, _ in sorted(rows, key=lambda row: row[:2])}  # the last step of each epoch
    spans = {epoch: (start, end) for start, (epoch, end) in zip([-1.0, *ends.values()], ends.items(), strict=False)}
    if ends:  # the last epoch may have been cut short: it is as long as the others
        start = spans[max(ends)][0]
        spans[max(ends)] = start, start + max(end - begin for begin, end in spans.values())
    placed = []
    for epoch, step, row in rows:
        start, end = spans[epoch]
        share = (step - start) / (end - start or 1)
        placed.append((epoch + (share if 0 < share <= 1 else 1.0), row))
    placed.sort(key=lambda one: one[0])
    series = {name: [(x, row[name]) for x, row in placed if name in row] for name in header}
    return {name: points for name, points in series.items() if points}


def data_uri(directory: Path, name: str) -> str | None:
    """A picture of a run for ``<img src>``; None for what is no PNG or JPEG below its directory."""
    from PIL import Image

    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        return None
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            kind = str(image.format)
            if len(content) > LARGEST:
                image.thumbnail((WIDEST, WIDEST))
                written, kind = io.BytesIO(), "JPEG"
                image.convert("RGB").save(written, kind, quality=85)
                content = written.getvalue()
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
