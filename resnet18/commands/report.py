"""``lightning report RUN``: a page on a run, or on several side by side, to open in any browser."""

from pathlib import Path

from resnet18.cli.plain import PlainParser
from resnet18.errors import RunError, UsageError, nearest
from resnet18.report.page import REPORT, write_comparison, write_report
from resnet18.storage.overview import run_directories
from resnet18.storage.records import CONFIG, LATEST


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning report ARGUMENTS`` does."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, or one with runs in it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="report.html in the run, or beside the runs")
    given = parser.parse_args(arguments)
    places = list(dict.fromkeys(path for place in given.runs for path in _runs(Path(place))))
    if len(places) == 1:
        print(write_report(places[0], given.output))
        return
    parents = dict.fromkeys(place.parent for place in places)
    if given.output is None and len(parents) > 1:
        raise UsageError("--output: these runs are of several experiments, so the file needs a name")
    print(write_comparison(places, given.output or next(iter(parents)) / REPORT))


def _runs(place: Path) -> list[Path]:
    """The run in a directory, or the runs below it."""
    if (place / CONFIG).exists():
        return [place.resolve() if place.name == LATEST else place]
    if found := run_directories(place):
        return found
    known = {run.name for run in run_directories(place.parent)} if place.parent.is_dir() else set()
    near = nearest(place.name, [*known, LATEST]) if known else None
    advice = f"; did you mean {place.parent / near}?" if near else ""
    what = "is not a run: it has no config.yaml" if place.exists() else "does not exist"
    raise RunError(f"{place} {what}{advice}")
