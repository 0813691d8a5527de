"""``metrics.csv``, which is always written, and W&B without an account or a network, which holds every row once."""

import csv
import glob
import os
import struct
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.errors import RunError

ONLINE_TIMEOUT_S = "10"
BLOCK, HEADER = 2**15, 7  # bytes, of W&B's files
X_AXIS = "trainer/global_step"  # under which WandbLogger logs the step


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


class WandbRun(WandbLogger):
    """A W&B run that holds every row once, however often it was killed and resumed."""

    # W&B writes a file, a part of the run, for each start, and in blocks: a killed process loses its last rows, or has
    # logged some beyond the checkpoint that the run resumes from. Lost rows are taken from metrics.csv, and rows that
    # are there are not logged again.

    _stored: frozenset[tuple[int, frozenset[str]]] = frozenset()
    _defined: frozenset[str] = frozenset()

    @rank_zero_only
    def fill_in(self, metrics_file: MetricsFile) -> None:
        """Logs the rows of ``metrics.csv`` that earlier parts of the run lack."""
        from google.protobuf.message import DecodeError

        try:
            self._stored = frozenset(self._rows_of_parts())
        except (OSError, ValueError, DecodeError) as error:
            print(f"W&B's run so far can't be read, and rows may be missing or come twice: {error}", file=sys.stderr)
            return
        if self.experiment.offline:  # online W&B's server may have more rows than the file
            for step, metrics in metrics_file.rows():
                self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None and (step, frozenset(metrics)) in self._stored:
            return
        for name in metrics.keys() - self._defined:  # each by its name, as `wandb leet` knows no `*`
            self.experiment.define_metric(self._prefixed(name).replace(".", r"\."), step_metric=X_AXIS, step_sync=True)
        self._defined |= metrics.keys()
        super().log_metrics(metrics, step)

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name

    def _rows_of_parts(self) -> Iterator[tuple[int, frozenset[str]]]:
        """Step and metrics' names of the rows in the run's files."""
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

        current = Path(self.experiment.dir).parent
        for part in sorted(current.parent.glob(f"*run-*/run-{glob.escape(self.experiment.id)}.wandb")):
            if part.parent == current or part.parent.name.startswith("empty-"):
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
    """The records of a W&B file, for which W&B has no reader in Python; ValueError for another file."""
    # LevelDB's log: chunks in blocks of 32 kB, each after 4 bytes of checksum, 2 of length and 1 of kind (1 for a whole
    # record, 2, 3 and 4 for the first, a middle and the last part of one).
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
    if end < len(content):  # a record cut off by a kill, after which `wandb sync` uploads none of the later parts
        os.truncate(part, end)
    return records


def default_logger() -> dict[str, Any]:
    """The default logger: W&B, in the environment's project."""
    project = os.environ.get("WANDB_PROJECT") or "resnet18"
    return {"class_path": "resnet18.storage.loggers.WandbRun", "init_args": {"project": project}}


def wandb_without_questions() -> None:
    """Sets W&B to write to the disk only, except for what the user has set in the environment."""
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it looks up a host in offline mode too
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_INIT_TIMEOUT", ONLINE_TIMEOUT_S)  # 90 s by default


def start_wandb(logger: WandbLogger, metrics_file: MetricsFile) -> None:
    """Starts or resumes the logger's run, or prints why it is kept offline."""
    # By itself W&B would ask for a login on the terminal, and hang without a network.
    import wandb

    options, online = logger._wandb_init, os.environ["WANDB_MODE"] == "online"
    options.pop("anonymous", None)  # retired, and warned about in every run
    options["resume"] = options.get("resume") or "allow"  # WandbLogger's default, which the parser overwrites with None
    verified = False
    try:
        # Verified before the run starts: W&B would keep the id of a run that failed to start.
        if online and not wandb.login(prompt=False, verify=True):
            raise wandb.errors.UsageError("there is no API key (`wandb login`)")
        verified = True
        _ = logger.experiment
    except (wandb.errors.Error, TimeoutError) as error:
        if not online:
            raise
        reason = str(error).splitlines()[0]
        print(f"W&B can't go online: {reason}; the run is kept offline, `wandb sync` uploads it later", file=sys.stderr)
        options["mode"] = "offline"  # W&B has already read the environment
        if verified:
            options["id"] = f"{options['id']}-offline"
        _ = logger.experiment
    if isinstance(logger, WandbRun) and not logger.experiment.disabled:
        logger.fill_in(metrics_file)


def finish_wandb(loggers: Iterable[Logger], status: int) -> None:
    """Ends the W&B runs that were started; the status tells W&B whether they failed."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger.experiment.finish(exit_code=status)
