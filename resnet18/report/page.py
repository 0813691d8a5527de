"""One page on a run, or on several side by side: a file to open in any browser, read from their directories alone."""

import os
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnet18.errors import RunError, counted
from resnet18.report import figures, tables
from resnet18.report.curves import curves
from resnet18.report.headline import facts, headline, not_measured
from resnet18.report.markup import asset, document, text
from resnet18.report.run_files import Run, data_uri, read_run
from resnet18.storage.records import PICTURES

REPORT, BATCH = "report.html", "batch.png"
BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)  # of files that hold something else


def write_report(directory: Path, output: Path | None = None) -> Path:
    """Writes the page on a run, ``report.html`` in its directory unless another file is named.

    Raises:
        RunError: Where there is no run, or the file can't be written.
    """
    return _written(output or directory / REPORT, lambda: page(read_run(directory), _nearby(directory)))


def write_comparison(directories: Sequence[Path], output: Path) -> Path:
    """Writes the page on several runs.

    Raises:
        RunError: Where one is no run, or the file can't be written.
    """
    return _written(output, lambda: comparison([read_run(directory) for directory in directories]))


def _written(path: Path, made: Callable[[], str]) -> Path:
    """Writes a page, whole or not at all."""
    try:
        content = made()
    except (*BROKEN, OSError) as error:
        raise RunError(
            f"{path} can't be made: a file of the run holds something else than it should: {error}"
        ) from error
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from None
    return path


def page(run: Run, place: str) -> str:
    """The page on one run; ``place`` is its directory as it is typed."""
    drawn = Sections(run.problems)
    drawn.add("", lambda: headline(run))
    drawn.add("", lambda: facts(run))
    drawn.add("Curves", lambda: curves([run], [""]))
    drawn.add("", lambda: _evaluated(run, run.test, "Test"))
    drawn.add("", lambda: _validation(run))
    drawn.add("The first training batch, as the network saw it", lambda: _batch(run))
    drawn.add("Seeds", lambda: tables.seeds(run.seeds) if run.seeds else "")
    drawn.add("Configuration", lambda: tables.configuration(run.seen.config))
    drawn.add("Provenance", lambda: tables.provenance(run.seen.provenance))
    missing = not_measured(run, place)  # at the end, for the sections before it note what they can't read
    drawn.add("What was not measured", lambda: _listed(missing))
    name = f"{run.seen.experiment} / {run.seen.name}"
    return document(name, f"<main><h1>{text(name)}</h1>{drawn}</main>", asset("page.js"))


def comparison(runs: Sequence[Run]) -> str:
    """The page on several runs: their curves laid over each other, their scores, and what differs."""
    names, drawn = _letters(len(runs)), Sections([])
    drawn.add("", lambda: "".join(f'<p class="warn">{text(warning)}</p>' for warning in warnings(runs, names)))
    drawn.add("", lambda: tables.scores(runs, names))
    groups = {run.directory.parent: run.seeds for run in runs if run.seeds}
    for place, seeds in groups.items():
        drawn.add(f"Seeds of {place.name}", lambda seeds=seeds: tables.seeds(seeds))
    drawn.add("What differs between their configurations", lambda: tables.differing(runs, names))
    drawn.add("Curves", lambda: curves(runs, names))
    whose: dict[str, list[str]] = {}
    for name, run in zip(names, runs, strict=True):
        for sentence in not_measured(run, _nearby(run.directory)):
            whose.setdefault(sentence, []).append(name)
    missing = [f"<b>{', '.join(of)}</b>: {sentence}" for sentence, of in whose.items()]
    drawn.add("What was not measured", lambda: _listed([*missing, *map(text, drawn.problems)]))
    title = f"{counted(len(runs), 'run')}: {', '.join(dict.fromkeys(run.seen.experiment for run in runs))}"
    return document(title, f'<main><h1 class="title">{text(title)}</h1>{drawn}</main>', asset("page.js"))


class Sections:
    """The parts of a page: a part whose files hold something else than they should is left out, and that is noted."""

    def __init__(self, problems: list[str]) -> None:
        self.problems, self.parts = problems, list[str]()

    def add(self, title: str, draw: Callable[[], str]) -> None:
        try:
            content = draw()
        except BROKEN as error:
            self.problems.append(f"{title or 'a part of the page'}: {type(error).__name__}: {error}")
            content = '<p class="note">This can\'t be drawn from the files of the run.</p>'
        self.parts.append(f"<h2>{text(title)}</h2>{content}" if title and content else content)

    def __str__(self) -> str:
        return "".join(self.parts)


def warnings(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Why numbers of these runs can't be compared."""
    found = []
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
            shown = " and ".join(", ".join(group) for group in groups.values())
            found.append(f"{shown} {what}: their scores can't be compared.")
    return found


def _evaluated(run: Run, found: dict[str, Any], title: str) -> str:
    if "confusion" not in found:
        return ""
    many = len(found["class_names"]) > figures.MATRIX_CLASSES
    views = {
        "Most confused" if many else "Confusion": figures.confusion(found),
        "Accuracy of each class": figures.per_class(found),
        "Reliability": figures.reliability(found),
    }
    drawn = "".join(f"<section><h3>{name}</h3>{view}</section>" for name, view in views.items())
    names = [str(mistake.get("picture")) for mistake in found["mistakes"]]
    pictures = {name: source for name in names if (source := data_uri(run.directory, name))}
    images = f' <span class="quiet">{counted(found["images"], "image")}</span>'
    worst = figures.mistakes(found, pictures)
    return f"<h2>{title}{images}</h2><div class='views'>{drawn}</div><h2>The most confident mistakes</h2>{worst}"


def _validation(run: Run) -> str:
    drawn = _evaluated(run, run.val, f"Validation, epoch {run.val.get('epoch', -1) + 1}")
    # Of a run that was tested it says little more, but takes as much room.
    folded = f'<details class="folded"><summary>Validation</summary>{drawn}</details>'
    return folded if drawn and run.test else drawn


def _batch(run: Run) -> str:
    source = data_uri(run.directory, f"{PICTURES}/{BATCH}")
    return f'<img class="batch" src="{source}" alt="the first training batch">' if source else ""


def _listed(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in sentences)}</ul>" if sentences else "<p>Nothing.</p>"


def _letters(count: int) -> list[str]:
    """A, B, … Z, then A2, B2, …"""
    rounds = (("" if turn == 0 else str(turn + 1)) for turn in range(count // 26 + 1))
    return [letter + turn for turn in rounds for letter in string.ascii_uppercase][:count]


def _nearby(directory: Path) -> str:
    """A directory as one would type it here."""
    here = Path.cwd()
    directory = directory.resolve()
    return os.path.relpath(directory, here) if directory.is_relative_to(here) else str(directory)
