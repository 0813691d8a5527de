"""One page on a run, or on several side by side: a file to open in any browser, read from their directories alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from resnet18.errors import RunError, counted
from resnet18.report import figures, sections
from resnet18.report.charts import curves
from resnet18.report.markup import standalone, text
from resnet18.report.run_files import Run, data_uri, read_run
from resnet18.report.seed_groups import lines
from resnet18.storage.records import PICTURES

REPORT, BATCH = "report.html", "batch.png"
BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)  # of files that hold something else

Parts = list[tuple[str, Callable[[], str]]]  # of a page: title, or none, and content


def write_report(directory: Path, output: Path | None = None) -> Path:
    """Writes the page on a run, by default into its directory; RunError where there is none, or it can't be written."""
    return _write(output or directory / REPORT, page(read_run(directory)))


def write_comparison(directories: Sequence[Path], output: Path) -> Path:
    """Writes the page on several runs; RunError where one is none, or the file can't be written."""
    return _write(output, comparison([read_run(directory) for directory in directories]))


def _write(path: Path, content: str) -> Path:
    """Writes a page, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from None
    return path


def page(run: Run) -> str:
    """The page on one run."""
    parts: Parts = [
        ("", lambda: sections.headline(run)),
        ("", lambda: sections.facts(run)),
        ("Curves", lambda: curves([run], [""])),
        ("", lambda: _evaluated(run, run.test, "Test")),
        ("", lambda: _validation(run)),
        ("The first training batch, as the network saw it", lambda: _batch(run)),
        ("Seeds", lambda: _seeds(run.seeds)),
        ("Configuration", lambda: sections.configuration(run.seen.config)),
        ("Provenance", lambda: sections.provenance(run.seen.provenance) if run.seen.provenance else ""),
        ("What was not measured", lambda: _listed(sections.not_measured(run))),
    ]
    name = f"{run.seen.experiment} / {run.seen.name}"
    return _document(name, f"<h1>{text(name)}</h1>", parts, run.problems)


def comparison(runs: Sequence[Run]) -> str:
    """The page on several runs: their curves laid over each other, their scores, and what differs."""
    names = [f"{ascii_uppercase[n % 26]}{n // 26 + 1 if n > 25 else ''}" for n in range(len(runs))]
    problems = list[str]()

    def missing() -> str:
        readings = {name: sections.not_measured(run) for name, run in zip(names, runs, strict=True)}
        whose = {
            one: ", ".join(name for name in names if one in readings[name])
            for each in readings.values()
            for one in each
        }
        return _listed([*(f"<b>{of}</b>: {one}" for one, of in whose.items()), *map(text, problems)])

    groups = {run.seen.directory.parent: run.seeds for run in runs if run.seeds}
    parts: Parts = [
        ("", lambda: _warnings(runs, names)),
        ("", lambda: sections.scores(runs, names)),
        *((f"Seeds of {place.name}", lambda found=found: _seeds(found)) for place, found in groups.items()),
        ("What differs between their configurations", lambda: sections.differing(runs, names)),
        ("Curves", lambda: curves(runs, names)),
        ("What was not measured", missing),
    ]
    title = f"{counted(len(runs), 'run')}: {', '.join(dict.fromkeys(run.seen.experiment for run in runs))}"
    return _document(title, f'<h1 class="title">{text(title)}</h1>', parts, problems)


def _document(title: str, content: str, parts: Parts, problems: list[str]) -> str:
    """A page; a part whose files hold something else than they should is left out, which the last part tells."""
    for name, draw in parts:
        try:
            drawn = draw()
        except BROKEN as error:
            problems.append(f"{name or 'a part of the page'}: {type(error).__name__}: {error}")
            drawn = '<p class="note">This can\'t be drawn from the files of the run.</p>'
        content += f"<h2>{text(name)}</h2>{drawn}" if name and drawn else drawn
    return standalone(content, title, Path(__file__).with_name("page.js").read_text(encoding="utf-8"))


def _warnings(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Why numbers of these runs can't be compared."""
    found = ""
    kinds: dict[str, Callable[[Run], Any]] = {
        "were split differently into training and validation images": lambda run: run.seen.provenance.get("split_hash"),
        "have different classes": lambda run: tuple(run.test.get("class_names") or run.val.get("class_names") or ()),
        "chose their best epoch by different metrics": lambda run: run.seen.monitor,
    }
    for what, read in kinds.items():
        groups: dict[Any, list[str]] = {}
        for run, name in zip(runs, names, strict=True):
            if key := read(run):
                groups.setdefault(key, []).append(name)
        if len(groups) > 1:
            readings = " and ".join(", ".join(group) for group in groups.values())
            found += f'<p class="warn">{readings} {what}: their scores can&#x27;t be compared.</p>'
    return found


def _evaluated(run: Run, found: dict[str, Any], title: str) -> str:
    if "confusion" not in found:
        return ""
    first = "Most confused" if len(found["class_names"]) > figures.MATRIX_CLASSES else "Confusion"
    views = {first: figures.confusion, "Accuracy of each class": figures.per_class, "Reliability": figures.reliability}
    drawn = "".join(f"<section><h3>{name}</h3>{draw(found)}</section>" for name, draw in views.items())
    images = f' <span class="quiet">{counted(found["images"], "image")}</span>'
    worst = figures.mistakes(found, run.seen.directory)
    return f"<h2>{title}{images}</h2><div class='views'>{drawn}</div><h2>The most confident mistakes</h2>{worst}"


def _validation(run: Run) -> str:
    drawn = _evaluated(run, run.val, f"Validation, epoch {run.val.get('epoch', -1) + 1}")
    # Of a run that was tested it says little more, but takes as much room.
    folded = f'<details class="folded"><summary>Validation</summary>{drawn}</details>'
    return folded if drawn and run.test else drawn


def _seeds(found: dict[str, Any]) -> str:
    """What ``lightning seeds`` prints of a group."""
    readings = text("\n".join(lines(found) if found else ()))
    return f'<pre tabindex="0">{readings}</pre>' if found else ""


def _batch(run: Run) -> str:
    source = data_uri(run.seen.directory, f"{PICTURES}/{BATCH}")
    return f'<img class="batch" src="{source}" alt="the first training batch">' if source else ""


def _listed(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in sentences)}</ul>" if sentences else "<p>Nothing.</p>"
