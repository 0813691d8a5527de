"""``metrics.csv``, which a run always writes."""

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.errors import RunError


class MetricsFile(Logger):
    """One CSV row each time something is logged; a resumed run keeps the rows before optimizer step ``resume_step``."""

    # Rows are flushed one by one, so a killed run keeps what it logged. Lightning's CSVLogger deletes an earlier file.

    name, version = "metrics", ""  # type: ignore[assignment]  # of Logger's interface

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._columns = ["epoch", "step"]
        self._rows: list[dict[str, str]] = []
        self._written = False
        if resume_step is not None and path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                whole = (row for row in reader if None not in row.values())  # a row torn by a power cut lacks columns
                # Lightning counts logged steps from 0: a checkpoint after step n has logged 0…n-1.
                self._rows = [row for row in whole if int(row["step"] or 0) < resume_step]
                self._columns = list(reader.fieldnames or self._columns)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run's ``config.yaml`` has them."""

    @rank_zero_only
    def save(self) -> None:
        """Forces the rows to the disk, before a checkpoint."""
        if self._written:
            with self.path.open("ab") as file:  # Windows forces only a file that is open for writing
                os.fsync(file.fileno())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {name: f"{value:.6g}" for name, value in metrics.items()} | {"step": "" if step is None else str(step)}
        if "epoch" in metrics:
            row["epoch"] = str(int(metrics["epoch"]))
        self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        self._columns += new
        try:
            if self._written and not new:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self._columns).writerow(row)
            else:
                self._write_all()
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror}") from None

    def _write_all(self) -> None:
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self.path)
        self._written = True

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """Step and metrics of every row that has a step."""
        return [
            (int(row["step"]), {name: float(cell) for name, cell in row.items() if cell and name != "step"})
            for row in self._rows
            if row["step"]
        ]
