"""``lightning runs``: a table of an experiment's runs, the best first, or all of it as JSON.

Looks at the runs' own files and imports nothing heavy: 200 runs take a second.
"""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from resnet18.cli.plain import PlainParser, print_table
from resnet18.errors import RunError, UsageError, hint, written
from resnet18.storage.overview import Overview, differences, overview, run_directories, short_names, shown

RUNS = Path("runs")
Table = list[tuple[Overview, dict[str, Any]]]  # of each run the values that differ within the table


def run(command: str, arguments: list[str]) -> None:
    """Runs ``lightning runs [EXPERIMENT] [--sort best|test|run] [--json]``."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("experiment", nargs="?", help="A name below runs/, or a directory; by default all below runs/.")
    parser.add_argument("--sort", choices=("best", "test", "run"), default="best", help="The best score comes first.")
    parser.add_argument("--json", action="store_true", help="Print everything known; epochs count from 0.")
    options = parser.parse_args(arguments)
    tables = read(find_experiment(options.experiment), options.sort)
    if options.json:
        print(json.dumps([known(*one) for table in tables for one in table], indent=1, default=str))
        return
    for number, table in enumerate(tables):
        print(end="\n" if number else "")
        show(table)


def find_experiment(name: str | None) -> Path:
    """The directory of an experiment's runs, or of all."""
    if name is None:
        return RUNS
    place = next((place for place in (RUNS / name, Path(name)) if place.is_dir()), None)
    if place is None:
        there = [entry.name for entry in RUNS.glob("*/")]
        raise UsageError(f"there is no {name} below {RUNS}, and no such directory{hint(name, there)}")
    return place


def read(place: Path, sort: str) -> list[Table]:
    """The runs in a directory, those of one place and one monitored metric together; RunError if there are none."""
    runs = list[Overview]()
    for directory in run_directories(place):
        try:
            runs.append(overview(directory))
            print(*runs[-1].problems, sep="\n", end="\n" if runs[-1].problems else "", file=sys.stderr)
        except RunError as error:
            print(error, file=sys.stderr)
    if not runs:
        raise RunError(f"there is no run in {place}" if place.is_dir() else f"there is no directory {place} here")

    def kind(run: Overview) -> tuple[str, str, str]:
        return str(run.directory.parent), run.monitor, run.mode

    def rank(one: tuple[Overview, Any]) -> tuple[bool, float]:
        value = one[0].best if sort == "best" else one[0].test.get(test_metric(one[0]))
        return value is None, (value or 0.0) * (-1 if one[0].mode == "max" else 1)

    tables = []
    for _, group in groupby(sorted(runs, key=kind), kind):
        together = list(group)  # oldest first
        changed = differences([run.config for run in together])
        table = [(run, {key: row[i] for key, row in changed.items()}) for i, run in enumerate(together)]
        tables.append(table if sort == "run" else sorted(table, key=rank))
    return tables


def test_metric(run: Overview) -> str:
    """The test score that goes with the monitored metric."""
    return f"test/{run.monitor.removeprefix('val/')}"


def known(run: Overview, differs: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run."""
    names = ("state", "epochs", "planned", "monitor", "mode", "best", "best_epoch", "test", "minutes")
    origin = run.provenance
    return {
        **{"run": run.name, "directory": _near(run.directory), "experiment": run.experiment},
        **{name: getattr(run, name) for name in names},
        **{"reason": run.status.get("reason", ""), "started": origin.get("started")},
        **{"git": (origin.get("git") or {}).get("sha"), "seed": run.config.get("seed_everything")},
        **{"split_hash": origin.get("split_hash"), "differs": differs},
    }


def show(table: Table) -> None:
    """Prints a table; of a run what differs from the oldest run in it, and of that all that differs anywhere."""
    first, metric = table[0][0], test_metric(table[0][0])
    _, oldest = min(table, key=lambda one: (one[0].name, one[0].directory))
    names = short_names(oldest)
    rows = [["run", "state", "epochs", first.monitor, "in", metric, "min", "differs"]]
    for run, values in table:
        differs = [key for key in names if values is oldest or values[key] != oldest[key]]
        rows.append(
            [
                *(run.name, run.state, f"{run.epochs}/{run.planned or '?'}"),
                "" if run.best is None else written(run.monitor, run.best),
                "" if run.best_epoch is None else str(run.best_epoch + 1),
                written(metric, run.test[metric]) if metric in run.test else "",
                "" if run.minutes is None else f"{run.minutes:.1f}",
                ", ".join(f"{names[key]} {shown(values[key])}" for key in differs),
            ]
        )
    print(_near(first.directory.parent))
    print_table(rows)


def _near(directory: Path) -> str:
    """A path as short as it can be typed here."""
    return str(directory.relative_to(Path.cwd())) if directory.is_relative_to(Path.cwd()) else str(directory)
