"""A run, or many, at a glance: state, best and test scores, and what differs between their configurations.

Light and quick, 200 runs in a second: nothing here imports torch, and of ``metrics.csv`` few columns are read.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet18.errors import RunError
from resnet18.storage.records import CONFIG, LATEST, METRICS, PROVENANCE, read_config, read_evaluations, read_json
from resnet18.storage.status import FINISHED, STOPPED, read_status

NOT_COMPARED = ("experiment", "trainer.logger", "last", "run_dir")  # changes nothing that a run reaches


@dataclass(frozen=True)
class Overview:
    """What a run's own files say of it."""

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    status: dict[str, Any]
    monitor: str  # the metric that chose the best epoch
    mode: str  # max or min
    epochs: int  # trained, the last maybe in part
    best: float | None  # the monitored metric's best
    best_epoch: int | None  # from 0
    test: dict[str, float]  # the scores of its last `lightning test` with the options it was trained with
    problems: list[str] = field(default_factory=list)  # files that can't be read

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def experiment(self) -> str:
        return str(self.config.get("experiment") or self.directory.parent.name)

    @property
    def state(self) -> str:
        fallback = FINISHED if self.planned and self.epochs >= self.planned else STOPPED  # of a run without status.json
        return self.status.get("state", fallback)

    @property
    def minutes(self) -> float | None:
        return self.status["seconds"] / 60 if "seconds" in self.status else None

    @property
    def planned(self) -> int | None:
        """The configured number of epochs."""
        planned = _group(self.config, "trainer").get("max_epochs")
        return planned if isinstance(planned, int) else None


def overview(directory: Path) -> Overview:
    """Reads one run.

    Raises:
        RunError: For a directory that is none. Of its files only ``config.yaml`` must be readable.
    """
    directory = directory.resolve()
    config, problems = read_config(directory), list[str]()
    found: dict[str, Any] = {"provenance": {}, "status": {}}
    for name, read in (
        ("provenance", lambda: read_json(directory / PROVENANCE)),
        ("status", lambda: read_status(directory)),
    ):
        try:
            found[name] = read()
        except RunError as error:
            problems.append(str(error))
        except (LookupError, TypeError) as error:
            problems.append(f"{directory}: its {name} can't be read: {error}")
    watched = _group(config, "best")
    monitor, mode = watched.get("monitor") or "val/top1", watched.get("mode") or "max"
    epochs, best, best_epoch = 0, None, None
    try:
        for epoch, value in _column(directory / METRICS, monitor):
            epochs = max(epochs, epoch + 1)
            if value is not None and (best is None or (value >= best if mode == "max" else value <= best)):
                best, best_epoch = value, epoch  # of equal ones the last, which is kept
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{directory / METRICS} can't be read: {error}")
    test: dict[str, float] = {}
    try:
        for record in read_evaluations(directory):
            if record["command"] == "test" and not record.get("given") and not record.get("flip_tta"):
                test = {name: value for name, value in record.items() if name.startswith("test/")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        problems.append(f"{directory}: its evaluations can't be read: {error}")
    return Overview(
        directory,
        config,
        **found,
        monitor=monitor,
        mode=mode,
        epochs=epochs,
        best=best,
        best_epoch=best_epoch,
        test=test,
        problems=problems,
    )


def _group(config: dict[str, Any], name: str) -> dict[str, Any]:
    group = config.get(name)
    return group if isinstance(group, dict) else {}


def _column(path: Path, metric: str) -> Iterable[tuple[int, float | None]]:
    """Epoch, and value if there is one, of every row of a ``metrics.csv``."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if "epoch" not in header:
            return
        epoch, wanted = header.index("epoch"), header.index(metric) if metric in header else -1
        for row in rows:
            if len(row) == len(header) and row[epoch]:  # else torn by a kill
                cell = row[wanted] if wanted >= 0 else ""
                yield int(float(row[epoch])), float(cell) if cell else None


def run_directories(place: Path) -> list[Path]:
    """The runs in a directory or one level deeper, oldest first; ``latest``, a link, is not counted again."""
    candidates = [path for pattern in (CONFIG, f"*/{CONFIG}", f"*/*/{CONFIG}") for path in place.glob(pattern)]
    runs = {path.parent.resolve() for path in candidates if path.parent.name != LATEST}
    return sorted(runs, key=lambda run: (run.name, run))


def leaves(config: Any, key: str = "") -> dict[str, Any]:
    """A configuration's values by their keys as on the command line: ``model.optimizer.lr``."""
    if isinstance(config, dict) and config:
        found: dict[str, Any] = {}
        for name, value in config.items():
            inner = key if name in ("class_path", "init_args", "dict_kwargs") else f"{key}.{name}".lstrip(".")
            found |= {inner: value} if name == "class_path" else leaves(value, inner)
        return found
    if isinstance(config, list) and any(isinstance(value, dict) for value in config):
        return {
            name: one for number, value in enumerate(config) for name, one in leaves(value, f"{key}[{number}]").items()
        }
    return {key: config}


def differences(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys in which configurations differ, with each one's value; None where one lacks the key."""
    flat = [leaves(config) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {
        key: [one.get(key) for one in flat]
        for key in keys
        if not f"{key}.".startswith(tuple(f"{name}." for name in NOT_COMPARED))
    }
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, with as many of those before it as keep it apart from the others."""
    keys = list(keys)
    parts = {key: key.split(".") for key in keys}
    names: dict[str, str] = {}
    for key in keys:
        for length in range(1, len(parts[key]) + 1):
            names[key] = ".".join(parts[key][-length:])
            if sum(parts[other][-length:] == parts[key][-length:] for other in keys) == 1:
                break
    return {key: name.replace("seed_everything", "seed") for key, name in names.items()}


def shown(value: Any) -> str:
    """A configured value in a few characters: of a class path the class, of a number its shortest form."""
    if isinstance(value, float):
        return f"{value:g}"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text.rpartition(".")[2] if isinstance(value, str) and value.replace(".", "").isidentifier() else text
