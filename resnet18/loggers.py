"""``metrics.csv``, written always, and W&B that never asks for an account or a network."""

import csv
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.errors import RunError

ONLINE_TIMEOUT_S = "10"


class MetricsFile(Logger):
    """One CSV row for every time something is logged: epoch, step, and a column a metric.

    Rows are flushed one by one, so a killed run keeps what it logged. Lightning's CSVLogger deletes the file of an
    earlier run in the directory; this one goes on with it, from the step at which a run resumes.

    Args:
        path: The file; its directory exists by the time of the first row.
        resume_step: Keep the rows of an earlier file that come before this optimizer step.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._columns = ["epoch", "step"]
        self._rows: list[dict[str, str]] = []
        self._written = False
        if resume_step is not None and path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                # Lightning counts logged steps from 0: a checkpoint after step n has logged 0…n-1. A row that a power
                # cut has torn lacks columns.
                whole = (row for row in reader if None not in row.values())
                self._rows = [row for row in whole if int(row["step"] or 0) < resume_step]
                self._columns = list(reader.fieldnames or self._columns)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's ``config.yaml`` has them."""

    @rank_zero_only
    def save(self) -> None:
        """Forces the rows to the disk, for a checkpoint that counts on them."""
        if self._written:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {
            "step": str(step if step is not None else ""),
            **{name: f"{value:.6g}" for name, value in metrics.items()},
        }
        if "epoch" in metrics:
            row["epoch"] = str(int(metrics["epoch"]))
        self._rows.append(row)
        try:
            self._write(row)
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror}") from None

    def _write(self, row: dict[str, str]) -> None:
        new = [name for name in row if name not in self._columns]
        if new or not self._written:
            self._columns += new
            partial = self.path.with_suffix(".partial")
            with partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(self._rows)
            partial.replace(self.path)
            self._written = True
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)


def wandb_without_questions() -> None:
    """W&B writes to disk only unless WANDB_MODE says otherwise; what the user has set in the environment stands."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it looks up a host in offline mode too
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_INIT_TIMEOUT", ONLINE_TIMEOUT_S)  # 90 s by default


def start_wandb(logger: WandbLogger) -> None:
    """Starts the run that the logger stands for; where it can't go online it goes offline, and says so.

    Without this an online run without a login asks on the terminal, and one without a network hangs.
    """
    import wandb

    # WandbLogger passes a setting that W&B has retired, and warns about, in every run.
    logger._wandb_init.pop("anonymous", None)
    online = os.environ["WANDB_MODE"] == "online"
    asked = False
    try:
        # Verified before the run is begun: W&B would not let go of the name of one that it could not begin.
        if online and not wandb.login(prompt=False, verify=True):
            raise wandb.errors.UsageError("there is no API key (`wandb login`)")
        asked = True
        _ = logger.experiment
    except (wandb.errors.Error, TimeoutError) as error:
        if not online:
            raise
        why = str(error).splitlines()[0]
        print(f"W&B can't go online: {why}; the run is kept offline, `wandb sync` uploads it later", file=sys.stderr)
        logger._wandb_init["mode"] = "offline"  # by now W&B has read the environment
        if asked:
            logger._wandb_init["id"] = f"{logger._wandb_init['id']}-offline"
        _ = logger.experiment
