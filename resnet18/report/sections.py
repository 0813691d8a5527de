"""What a page says in words and tables: score, facts, what was not measured, configuration, origin, runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet18.errors import counted
from resnet18.report.charts import kind_of
from resnet18.report.intervals import wilson
from resnet18.report.markup import is_share, isolated, number, spoken, table, text
from resnet18.report.run_files import Run
from resnet18.storage.overview import differences, leaves, shown
from resnet18.storage.status import FINISHED

DIFF = 20_000  # characters of it that are shown


@dataclass(frozen=True)
class Score:
    """The number that a run is known by, and how it was reached."""

    metric: str
    value: float | None
    interval: str  # 95.1–97.2, of a share of a known number of images; else empty
    notes: list[str]  # of the protocol


def score(run: Run) -> Score:
    """The test score if there is one, with the options that the run was trained with if there is such a one.

    It is of the metric that chose the best epoch, if the test has that. Without a test it is the validation score of
    the best epoch.
    """
    plain = run.seen.test
    found = {} if plain and not _is_plain(run.test) else run.test
    scores = found.get("scores") or plain
    name = run.seen.monitor.rpartition("/")[2]
    metric = next((one for one in (f"test/{name}", "test/top1", *scores) if one in scores), None)
    if metric is not None:
        value, notes = scores[metric], _protocol(run, found)
    else:
        metric, value = run.seen.monitor, run.seen.best
        notes = ["of the images that chose the epoch, so it is too good"]
        found = run.val if run.val.get("epoch") == run.seen.best_epoch and _is_plain(run.val) else {}
    if not (images := found.get("images")) or value is None or not is_share(metric):
        return Score(metric, value, "", notes)
    right = round(value * images)
    low, high = (100 * bound for bound in wilson(right, images))
    return Score(metric, value, f"{low:.1f}–{high:.1f}", [f"{right:,} of {images:,} images, Wilson", *notes])


def _is_plain(found: dict[str, Any]) -> bool:
    """Whether an evaluation was made with the options that the run was trained with."""
    return not found.get("given") and not found.get("flip_tta")


def _protocol(run: Run, found: dict[str, Any]) -> list[str]:
    notes = ["logits averaged with those of the mirror image"] if found.get("flip_tta") else []
    if given := found.get("given"):
        notes.append(f"measured with {', '.join(f'--{name} {value}' for name, value in given.items())}")
    checkpoint = Path(found.get("checkpoint", "best.ckpt")).name
    if checkpoint != "best.ckpt":
        notes.append(f"of {checkpoint}")
    elif run.best and found.get("epoch") not in (None, run.seen.best_epoch):
        notes.append(f"of epoch {found['epoch'] + 1}, before the run was resumed")
    return notes


def headline(run: Run) -> str:
    """The number, large, with its interval, and how its checkpoint was chosen on which split."""
    found, chosen = score(run), list[str]()
    if found.value is None:
        return f'<p class="lead">No score yet: {text(run.seen.monitor)} was not logged.</p>'
    if run.best is not None:
        images = run.val.get("images")
        where = f" on {counted(images, 'validation image')}" if images else ""
        best = number(run.seen.best, run.seen.monitor)
        chosen.append(f"Best epoch {run.best} of {run.epochs}, chosen by {run.seen.monitor} ({best}){where}")
    if split := run.seen.provenance.get("split_hash"):
        chosen.append(f"split {split}")
    interval = f"95 % interval <b>{found.interval}</b>; " if found.interval else ""
    return (
        f'<p class="score">{number(found.value, found.metric)}<small>{text(spoken(found.metric))}</small></p>'
        f'<p class="lead">{interval}{text("; ".join(found.notes))}</p><p>{text("; ".join(chosen))}</p>'
    )


def duration(seconds: float | None) -> str:
    """Seconds as one reads them: 2.3 s, 12.4 min, 3.1 h."""
    if seconds is None:
        return "–"
    size, unit = (3600, "h") if seconds >= 3600 else (60, "min") if seconds >= 60 else (1, "s")
    return f"{seconds / size:.1f} {unit}"


def fact_rows(run: Run) -> dict[str, str]:
    """State, time, network, images, machine and origin, in plain text; what is not known is left out."""
    seen, origin = run.seen, run.seen.provenance
    model, reason = seen.config.get("model") or {}, seen.status.get("reason")
    git, hardware = origin.get("git") or {}, origin.get("hardware") or {}
    network = (model.get("backbone") or {}).get("class_path") or ""
    parameters, gpus = origin.get("parameters"), hardware.get("gpus")
    machine = f"{len(gpus)} × {gpus[0]}" if gpus else f"{hardware.get('cpu', '')}, {hardware.get('cores')} cores"
    dirty = ", with uncommitted changes" if git.get("status") else ""
    rows = {
        "state": f"{seen.state}: {reason}" if reason else seen.state,
        "epochs": f"{run.epochs} of {seen.planned}" if seen.planned else run.epochs,
        "training": duration(seen.status.get("seconds")),
        "network": f"{shown(network)}, {parameters:,} parameters" if parameters else shown(network),
        "images": ", ".join(f"{count:,} {part}" for part, count in (origin.get("images") or {}).items()),
        "hardware": machine if hardware else "",
        "git": f"{git['sha'][:10]}{dirty}" if git.get("sha") else "",
        "seed": origin.get("seed", ""),
        "started": str(origin.get("started", ""))[:16].replace("T", " "),
        "command": origin.get("command") or "",
    }
    return {name: str(value) for name, value in rows.items() if value not in ("", "–")}


def facts(run: Run) -> str:
    """The :func:`fact_rows`, the command below the others."""
    rows = fact_rows(run)
    command = rows.pop("command", None)
    cells = "".join(f"<div><dt>{name}</dt><dd>{isolated(value)}</dd></div>" for name, value in rows.items())
    if command:
        cells += f'<div class="wide"><dt>command</dt><dd><code>{text(command)}</code></dd></div>'
    return f'<dl class="facts">{cells}</dl>'


def not_measured(run: Run) -> list[str]:
    """Sentences, as HTML, on what the page can't say, each with the command that would."""
    place, tested, found = text(run.place), run.seen.test, list[str]()
    if not run.test and not tested:
        found.append(f"The test images: <code>lightning test --ckpt_path {place}</code>")
    elif not _is_plain(run.test) and not tested:
        found.append("The test with the options that the run was trained with.")
    for evaluation, command, images in ((run.val, "validate", "validation"), (run.test, "test", "test")):
        what = f"Classes, calibration and mistakes on the {images} images"
        if reason := evaluation.get("reason"):
            found.append(f"{what}: {text(reason)}.")
        elif not evaluation and (command == "validate" or tested):
            found.append(f"{what}: the run keeps none; <code>lightning {command} --ckpt_path {place}</code>")
    if not run.seeds:
        found.append("The spread over seeds: this is one. The interval tells of the number of images alone.")
    if run.seen.state != FINISHED and run.seen.planned and run.epochs < run.seen.planned:
        left = counted(run.seen.planned - run.epochs, "epoch")
        found.append(f"The other {left}: <code>lightning fit --ckpt_path {place}</code> resumes the run")
    if not run.seen.provenance.get("git"):
        found.append("The code: no git commit is known.")
    return [*found, *map(text, run.problems)]


def configuration(config: dict[str, Any]) -> str:
    """Every value, by section."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in config.items():
        known = isinstance(value, dict) and value
        parts.setdefault(name if known else "general", {}).update(leaves(value if known else {name: value}))
    return "".join(f"<details><summary>{text(name)}</summary>{_keys(part)}</details>" for name, part in parts.items())


def provenance(origin: dict[str, Any]) -> str:
    """Versions, machine, repository and what was not committed."""
    git = origin.get("git") or {}
    parts = _keys({key: value for key, value in leaves(origin).items() if not key.endswith(("git.status", "git.diff"))})
    for name in ("status", "diff"):
        if content := git.get(name):
            more = f"\n… {len(content) - DIFF:,} characters more in provenance.json" if len(content) > DIFF else ""
            drawn = f'<pre tabindex="0">{text(content[:DIFF] + more)}</pre>'
            parts += f"<details><summary>git {name}</summary>{drawn}</details>"
    return f"<details><summary>Versions, machine, command, repository</summary>{parts}</details>"


def _keys(values: dict[str, Any]) -> str:
    def written(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)

    return table((), [(text(key or "class"), isolated(written(value))) for key, value in values.items()], "keys")


def scores(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A row for each run: state, epochs, best, test with its interval, time."""
    rows = []
    for position, (run, name) in enumerate(zip(runs, names, strict=True)):
        found, seen = score(run), run.seen
        tested, notes = "–", ""
        if found.metric.startswith("test/"):
            tested, notes = number(found.value, found.metric), text("; ".join(found.notes))
            tested += f" ({found.interval})" if found.interval else ""
        best = f"{number(seen.best, seen.monitor)} in epoch {run.best}" if run.best else "–"
        rows.append(
            (
                f'<span class="keyline"><span><i class="{kind_of(position)}"></i><b>{text(name)}</b></span></span>',
                isolated(f"{seen.experiment}/{seen.name}"),
                text(seen.state),
                f"{run.epochs}",
                f'{best}<br><span class="quiet">{text(seen.monitor)}</span>',
                f'{tested}<br><span class="quiet">{notes}</span>',
                duration(seen.status.get("seconds")),
            )
        )
    return table(("", "run", "state", "epochs", "best", "test", "training"), rows, "runs")


def differing(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The configured values in which runs differ."""
    rows = differences([run.seen.config for run in runs]).items()
    cells = [(text(key), *(isolated(shown(value)) for value in values)) for key, values in rows]
    return table(("", *map(text, names)), cells, "differences") if rows else '<p class="note">None.</p>'
