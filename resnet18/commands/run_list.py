"""``lightning runs``: a table of an experiment's runs, the best first, or all of it as JSON.

Looks at the runs' own files and imports nothing heavy: 200 runs take a second.
"""

import json
import shutil
import sys
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any

from resnet18.cli.plain_parser import PlainParser
from resnet18.errors import RunError, UsageError, hint, written
from resnet18.storage.overview import Overview, differences, overview, run_directories, short_names, shown

RUNS = Path("runs")
SORTS = ("best", "test", "run")
MARGIN = 16  # characters at least for what differs
WIDE = 1000  # characters of a line that goes to a file or a pipe: a run each, for grep


def run(command: str, arguments: list[str]) -> None:
    """Runs ``lightning runs [EXPERIMENT] [--sort best|test|run] [--json]``."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("experiment", nargs="?", help="A name below runs/, or a directory; by default all below runs/.")
    parser.add_argument("--sort", choices=SORTS, default=SORTS[0], help="By what; the best score comes first.")
    parser.add_argument("--json", action="store_true", help="Print everything known; epochs count from 0.")
    options = parser.parse_args(arguments)
    place = find_experiment(options.experiment)
    tables = [table for table in read(place, options.sort) if table]
    if options.json:
        print(json.dumps([known(one, values) for table in tables for one, values in table], indent=1, default=str))
        return
    for number, table in enumerate(tables):
        print(end="\n" if number else "")
        show(table)


def find_experiment(name: str | None) -> Path:
    """The directory of an experiment's runs, or of all.

    Raises:
        UsageError: For a name that is not below runs/, nor a directory.
        RunError: Where there is no directory runs/.
    """
    if name is None:
        if not RUNS.is_dir():
            raise RunError(f"there is no directory {RUNS} here")
        return RUNS
    place = next((place for place in (RUNS / name, Path(name)) if place.is_dir()), None)
    if place is None:
        there = [entry.name for entry in RUNS.iterdir() if entry.is_dir()] if RUNS.is_dir() else []
        raise UsageError(f"there is no {name} below {RUNS}, and no such directory{hint(name, there)}")
    return place


def read(place: Path, sort: str) -> list[list[tuple[Overview, dict[str, Any]]]]:
    """The runs in a directory, those of one place and one monitored metric together, with the values that differ.

    Raises:
        RunError: Where there are none that can be read.
    """
    runs = list[Overview]()
    for directory in run_directories(place):
        try:
            runs.append(overview(directory))
        except RunError as error:
            print(error, file=sys.stderr)
            continue
        for problem in runs[-1].problems:
            print(problem, file=sys.stderr)
    if not runs:
        raise RunError(f"there is no run in {place}")

    def kind(run: Overview) -> tuple[str, str, str]:
        return str(run.directory.parent), run.monitor, run.mode

    tables = []
    for _, group in groupby(sorted(runs, key=kind), kind):
        together = list(group)  # oldest first
        changed = differences([run.config for run in together])
        found = [(run, {key: row[i] for key, row in changed.items()}) for i, run in enumerate(together)]
        if sort != "run":
            found.sort(key=lambda one: _rank(one[0], sort))
        tables.append(found)
    return tables


def _rank(run: Overview, sort: str) -> tuple[bool, float]:
    value = run.best if sort == "best" else run.test.get(test_metric(run))
    return value is None, 0.0 if value is None else -value if run.mode == "max" else value


def test_metric(run: Overview) -> str:
    """The test score that goes with the monitored metric."""
    return f"test/{run.monitor.removeprefix('val/')}"


def known(run: Overview, values: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run."""
    origin = run.provenance
    return {
        "run": run.name,
        "directory": _near(run.directory),
        "experiment": run.experiment,
        "state": run.state,
        "reason": run.status.get("reason", ""),
        "epochs": run.epochs,
        "planned": run.planned,
        "monitor": run.monitor,
        "mode": run.mode,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "test": run.test,
        "minutes": run.minutes,
        "started": origin.get("started"),
        "git": (origin.get("git") or {}).get("sha"),
        "seed": run.config.get("seed_everything"),
        "split_hash": origin.get("split_hash"),
        "differs": values,
    }


def show(table: list[tuple[Overview, dict[str, Any]]]) -> None:
    """Prints a table; of a run what differs from the oldest run in it, and of that all that differs anywhere."""
    # By hand: rich takes 0.2 s for 200 rows.
    metric, oldest = test_metric(table[0][0]), min(table, key=lambda one: (one[0].name, one[0].directory))
    names = short_names(oldest[1])
    rows = [["run", "state", "epochs", table[0][0].monitor, "in", metric, "min", "differs"]]
    for run, values in table:
        differs = [key for key in names if values is oldest[1] or values[key] != oldest[1][key]]
        rows.append(
            [
                run.name,
                run.state,
                f"{run.epochs}/{run.planned or '?'}",
                "" if run.best is None else written(run.monitor, run.best),
                "" if run.best_epoch is None else str(run.best_epoch + 1),
                written(metric, run.test[metric]) if metric in run.test else "",
                "" if run.minutes is None else f"{run.minutes:.1f}",
                ", ".join(f"{names[key]} {shown(values[key])}" for key in differs),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    indent = " " * (sum(widths) + len(widths))
    room = max(MARGIN, shutil.get_terminal_size((WIDE, 0)).columns - len(indent))
    print(_near(table[0][0].directory.parent))
    for *cells, differs in rows:
        aligned = [cell.ljust(width) for cell, width in zip(cells[:2], widths, strict=False)]
        aligned += [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        first, *more = textwrap.wrap(differs, room) or [""]
        print(" ".join([*aligned, first]).rstrip(), *(indent + line for line in more), sep="\n")


def _near(directory: Path) -> str:
    """A path as short as it can be typed here."""
    return str(directory.relative_to(Path.cwd())) if directory.is_relative_to(Path.cwd()) else str(directory)
