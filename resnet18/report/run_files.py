"""All that a page shows of a run, read from its directory; what can't be read is noted, and the rest is shown."""

import base64
import csv
import io
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet18.errors import RunError
from resnet18.storage.overview import Overview, overview
from resnet18.storage.records import METRICS, read_evaluation, read_json

SEEDS = "seeds.json"
LARGEST, WIDEST = 8_000, 1_200  # bytes and pixels; a larger picture is shown as a JPEG

Points = list[tuple[float, float]]  # epochs trained when it was measured, 0.5 or 3, and the value


@dataclass(frozen=True)
class Run:
    """A run's own files; ``val``, ``test`` and ``seeds`` are empty where there are none."""

    seen: Overview
    series: dict[str, Points]  # by metric, in the order of metrics.csv
    val: dict[str, Any]
    test: dict[str, Any]
    seeds: dict[str, Any]  # of the group that the run is in
    problems: list[str]

    @property
    def directory(self) -> Path:
        return self.seen.directory

    @cached_property
    def epochs(self) -> int:
        """Trained, the last maybe in part."""
        return max((math.ceil(points[-1][0]) for points in self.series.values()), default=0)

    @property
    def best(self) -> int | None:
        """The best epoch, from 1."""
        return None if self.seen.best_epoch is None else self.seen.best_epoch + 1

    def is_plain(self, found: dict[str, Any]) -> bool:
        """Whether an evaluation was made with the options that the run was trained with."""
        return not found.get("given") and not found.get("flip_tta")


def read_run(directory: Path) -> Run:
    """Reads a run.

    Raises:
        RunError: For a directory that is none.
    """
    seen = overview(directory)
    problems, found = list(seen.problems), dict[str, dict[str, Any]]()
    for name in ("val", "test", SEEDS):
        try:
            group = seen.directory.parent / SEEDS
            found[name] = read_json(group) if name == SEEDS else read_evaluation(seen.directory, name) or {}
        except RunError as error:
            problems.append(str(error))
    series, torn = _series(seen.directory / METRICS)
    if torn:
        problems.append(f"{seen.directory / METRICS}: {torn} of its rows can't be read")
    val, test, seeds = (found.get(name, {}) for name in ("val", "test", SEEDS))
    return Run(seen, series, val, test, seeds, problems)


def _series(path: Path) -> tuple[dict[str, Points], int]:
    """Each metric's points, and the number of rows that a kill, or an editor, has left unreadable."""
    if not path.is_file():
        return {}, 0
    lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8", errors="replace").replace("\0", "")))
    header, torn = next(lines, []), 0
    rows: list[tuple[int, float, dict[str, float]]] = []
    for cells in lines:
        try:
            row = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
            epoch = int(row.pop("epoch"))
            rows.append((epoch, row.pop("step", math.nan), row))
        except (ValueError, OverflowError, LookupError):
            torn += 1
    last: dict[int, float] = {}  # the last step of each epoch
    for epoch, step, _ in rows:
        last[epoch] = max(step, last.get(epoch, step))
    starts, longest, before = dict[int, float](), 1.0, -1.0
    for epoch in sorted(last):
        starts[epoch] = before
        longest, before = max(longest, last[epoch] - before), last[epoch]
    series: dict[str, Points] = {}
    for epoch, step, row in rows:
        # The last epoch may have been cut short: it is as long as the others.
        length = longest if epoch == max(last) else last[epoch] - starts[epoch]
        share = (step - starts[epoch]) / length if length > 0 else 1.0
        for name, value in row.items():
            series.setdefault(name, []).append((epoch + (share if 0 < share <= 1 else 1.0), value))
    order = [name for name in header if name in series]
    return {name: sorted(series[name], key=lambda point: point[0]) for name in order}, torn


def data_uri(directory: Path, name: str) -> str | None:
    """A picture of a run for ``<img src>``; None for what is no PNG or JPEG below its directory."""
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    if len(content) > LARGEST:
        content = _smaller(content)
    kind = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}
    found = next((kind[start] for start in kind if content.startswith(start)), None)
    return f"data:image/{found};base64,{base64.b64encode(content).decode()}" if found else None


def _smaller(content: bytes) -> bytes:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            image.thumbnail((WIDEST, WIDEST))
            written = io.BytesIO()
            image.convert("RGB").save(written, "JPEG", quality=85)
    except (OSError, ValueError, Image.DecompressionBombError):
        return b""
    return written.getvalue()
