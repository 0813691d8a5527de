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
    sections = [
        _attempt(run.problems, lambda: headline(run)),
        _attempt(run.problems, lambda: facts(run)),
        _section("Curves", _attempt(run.problems, lambda: curves([run], [""]))),
    ]
    if run.test:
        sections.append(_evaluated(run, run.test, "Test"))
    if run.val:
        found = _evaluated(run, run.val, "Validation, at the best epoch")
        # Of a run that was tested the validation says nothing more, but takes as much room.
        folded = f'<details class="folded"><summary>Validation</summary>{found}</details>'
        sections.append(folded if run.test else found)
    if batch := data_uri(run.directory, f"{PICTURES}/{BATCH}"):
        image = f'<img class="batch" src="{batch}" alt="the first training batch">'
        sections.append(_section("The first training batch, as the network saw it", image))
    if run.seeds:
        sections.append(_section("Seeds", _attempt(run.problems, lambda: tables.seeds(run.seeds))))
    sections.append(_section("Configuration", _attempt(run.problems, lambda: tables.configuration(run.seen.config))))
    sections.append(_section("Provenance", _attempt(run.problems, lambda: tables.provenance(run.seen.provenance))))
    missing = not_measured(run, place)  # at the end, for the sections before it note what they can't read
    sections.append(_section("What was not measured", _listed(missing)))
    name = f"{run.seen.experiment} / {run.seen.name}"
    body = f"<main><h1>{text(name)}</h1>{''.join(sections)}</main>"
    return document(name, body, asset("page.js"))


def comparison(runs: Sequence[Run]) -> str:
    """The page on several runs: their curves laid over each other, their scores, and what differs."""
    names, problems = _letters(len(runs)), list[str]()

    def section(title: str, draw: Callable[[], str]) -> str:
        return _section(title, _attempt(problems, draw))

    found = [f'<p class="warn">{text(warning)}</p>' for warning in warnings(runs, names)]
    sections = [_attempt(problems, lambda: tables.scores(runs, names))]
    groups = {run.directory.parent: run.seeds for run in runs if run.seeds}
    for place, seeds in groups.items():
        sections.append(section(f"Seeds of {place.name}", lambda seeds=seeds: tables.seeds(seeds)))
    sections.append(section("What differs between their configurations", lambda: tables.differing(runs, names)))
    sections.append(section("Curves", lambda: curves(runs, names)))
    missing = [
        f"<b>{name}</b>: {sentence}"
        for name, run in zip(names, runs, strict=True)
        for sentence in not_measured(run, _nearby(run.directory))
    ]
    sections.append(_section("What was not measured", _listed([*missing, *map(text, problems)])))
    title = f"{counted(len(runs), 'run')}: {', '.join(dict.fromkeys(run.seen.experiment for run in runs))}"
    body = f'<main><h1 class="title">{text(title)}</h1>{"".join(found)}{"".join(sections)}</main>'
    return document(title, body, asset("page.js"))


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
        "Most confused" if many else "Confusion": lambda: figures.confusion(found),
        "Accuracy of each class": lambda: figures.per_class(found),
        "Reliability": lambda: figures.reliability(found),
    }
    drawn = "".join(f"<section><h3>{name}</h3>{_attempt(run.problems, view)}</section>" for name, view in views.items())
    pictures = {
        name: source
        for mistake in found.get("mistakes") or ()
        if (name := str(mistake.get("picture"))) and (source := data_uri(run.directory, name))
    }
    worst = _attempt(run.problems, lambda: figures.mistakes(found, pictures))
    images = f' <span class="quiet">{counted(found["images"], "image")}</span>'
    return f"<h2>{title}{images}</h2><div class='views'>{drawn}</div><h2>The most confident mistakes</h2>{worst}"


def _attempt(problems: list[str], draw: Callable[[], str]) -> str:
    """A part of the page, or a note where a file holds something else than it should."""
    try:
        return draw()
    except BROKEN as error:
        problems.append(f"a part of the page: {type(error).__name__}: {error}")
        return '<p class="note">This can\'t be drawn from the files of the run.</p>'


def _section(title: str, content: str) -> str:
    return f"<h2>{text(title)}</h2>{content}" if content else ""


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
