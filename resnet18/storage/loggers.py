"""``metrics.csv``, written always, and W&B that never asks for an account or a network and holds every row once."""

import csv
import glob
import os
import struct
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.errors import RunError

ONLINE_TIMEOUT_S = "10"
BLOCK, HEADER = 2**15, 7  # bytes, of W&B's files
X_AXIS = "trainer/global_step"  # under which WandbLogger logs the step


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
            with self.path.open("ab") as file:  # for writing: Windows forces no other file
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

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """Step and metrics of every row that has a step."""
        return [
            (int(row["step"]), {name: float(cell) for name, cell in row.items() if cell and name != "step"})
            for row in self._rows
            if row["step"]
        ]

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


class WandbRun(WandbLogger):
    """Lightning's, with a W&B run that holds every row once, however often it was killed and resumed.

    W&B writes a file for each start, a part of the run, and in blocks: a process that is killed loses its last rows, or
    has logged some beyond the checkpoint that the run goes on from. The former are taken from ``metrics.csv``, the
    latter not logged again. Every metric is drawn over the optimizer's steps, in ``wandb leet`` too, which knows
    no ``*``.
    """

    _stored: frozenset[tuple[int, frozenset[str]]] = frozenset()
    _defined: frozenset[str] = frozenset()

    @rank_zero_only
    def fill_in(self, metrics_file: MetricsFile) -> None:
        """Compares earlier parts of the run with ``metrics.csv``, and logs the rows that they lack.

        Only offline: of a run online W&B's server may have more than its file here.
        """
        from google.protobuf.message import DecodeError

        try:
            self._stored = frozenset(self._rows_of_parts())
        except (OSError, ValueError, DecodeError) as error:
            print(f"W&B's run so far can't be read, and rows may be missing or come twice: {error}", file=sys.stderr)
            return
        if self.experiment.offline:
            for step, metrics in metrics_file.rows():
                self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None and (step, frozenset(metrics)) in self._stored:
            return
        for name in metrics.keys() - self._defined:
            self.experiment.define_metric(self._prefixed(name).replace(".", r"\."), step_metric=X_AXIS, step_sync=True)
        self._defined |= metrics.keys()
        super().log_metrics(metrics, step)

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name

    def _rows_of_parts(self) -> Iterator[tuple[int, frozenset[str]]]:
        """Step and metrics' names of the rows that the run's files hold."""
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

        begun = Path(self.experiment.dir).parent
        for part in sorted(begun.parent.glob(f"*/run-{glob.escape(self.experiment.id)}.wandb")):
            if part.parent == begun or not part.parent.name.startswith(("run-", "offline-run-")):
                continue
            records = _whole_records(part)
            if not records:
                # `wandb sync` uploads none of several parts if one is empty; it does not look under this name.
                part.parent.rename(part.parent.with_name(f"empty-{part.parent.name}"))
            for record in map(Record.FromString, records):
                items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                if X_AXIS in items:
                    names = {name.removeprefix(self._prefixed("")) for name in items if not name.startswith("_")}
                    yield int(items[X_AXIS]), frozenset(names - {X_AXIS})


def _whole_records(part: Path) -> list[bytes]:
    """The records of a W&B file. One at its end that a kill has cut off is taken away.

    With it ``wandb sync`` would say that the part is incomplete, and upload none of those that follow. There is no
    reader of W&B's own in Python. The file is LevelDB's log: chunks in blocks of 32 kB, each after 4 bytes of checksum,
    2 of length and 1 of kind (1 for a whole record, 2, 3 and 4 for the first, a middle and the last part of one).

    Raises:
        ValueError: For a file that is none.
    """
    content = part.read_bytes()
    place = end = HEADER
    record, records = b"", []
    while True:
        if (left := BLOCK - place % BLOCK) < HEADER:  # padding
            place += left
        if place + HEADER > len(content):
            break
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if not content.startswith(b":W&B") or not 1 <= kind <= 4:
            raise ValueError(f"{part} is damaged")
        place += HEADER + length
        if place > len(content):
            break
        record += content[place - length : place]
        if kind in (1, 4):
            records.append(record)
            record, end = b"", place
    if end < len(content):
        os.truncate(part, end)
    return records


def default_logger() -> dict[str, Any]:
    """The logger of a run that names none: W&B, in the project that the environment names."""
    project = os.environ.get("WANDB_PROJECT") or "resnet18"
    return {"class_path": "resnet18.storage.loggers.WandbRun", "init_args": {"project": project}}


def wandb_without_questions() -> None:
    """W&B writes to disk only unless WANDB_MODE says otherwise; what the user has set in the environment stands."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it looks up a host in offline mode too
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_INIT_TIMEOUT", ONLINE_TIMEOUT_S)  # 90 s by default


def start_wandb(logger: WandbLogger, metrics_file: MetricsFile) -> None:
    """Starts the run that the logger stands for, or goes on with it.

    Where it can't go online it goes offline, and says so. Without this an online run without a login asks on the
    terminal, and one without a network hangs.
    """
    import wandb

    # WandbLogger passes a setting that W&B has retired, and warns about, in every run.
    logger._wandb_init.pop("anonymous", None)
    # WandbLogger's own default, but the parser hands it None. Without it W&B's server would take a part for the whole.
    logger._wandb_init["resume"] = logger._wandb_init.get("resume") or "allow"
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
    if isinstance(logger, WandbRun) and not logger.experiment.disabled:
        logger.fill_in(metrics_file)
