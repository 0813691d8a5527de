"""A run's score with its interval and protocol, the facts beside it, and what was not measured."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet18.errors import counted
from resnet18.report.intervals import wilson
from resnet18.report.markup import is_share, isolated, number, spoken, text
from resnet18.report.run_files import Run
from resnet18.storage.status import FINISHED


@dataclass(frozen=True)
class Score:
    """The number that a run is known by, and how it was reached."""

    metric: str
    value: float | None
    interval: tuple[float, float] | None = None
    images: int | None = None
    notes: tuple[str, ...] = ()  # of the protocol

    @property
    def shown(self) -> str:
        return number(self.value, is_share(self.metric))


def score(run: Run) -> Score:
    """The test score if there is one, with the options that the run was trained with if there is such a one.

    It is of the metric that chose the best epoch, if the test has that. Without a test it is the validation score of
    the best epoch.
    """
    plain, found = run.seen.test, run.test
    if found and not run.is_plain(found) and plain:
        found = {}
    scores = found.get("scores") or plain
    name = run.seen.monitor.rpartition("/")[2]
    metric = next((one for one in (f"test/{name}", "test/top1", *scores) if one in scores), None)
    if metric is not None:
        return _with_interval(metric, scores[metric], found, _notes(run, found))
    found = run.val if run.val.get("epoch") == run.seen.best_epoch and run.is_plain(run.val) else {}
    optimistic = "of the images that chose the epoch, so it is too good"
    return _with_interval(run.seen.monitor, run.seen.best, found, (optimistic,))


def _with_interval(metric: str, value: float | None, found: dict[str, Any], notes: tuple[str, ...]) -> Score:
    images = found.get("images")
    if not images or value is None or not is_share(metric):
        return Score(metric, value, None, images, notes)
    right = round(value * images)
    return Score(metric, value, wilson(right, images), images, (f"{right:,} of {images:,} images, Wilson", *notes))


def _notes(run: Run, found: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if found.get("flip_tta"):
        notes.append("logits averaged with those of the mirror image")
    if given := found.get("given"):
        notes.append(f"measured with {', '.join(f'--{name} {value}' for name, value in dict(given).items())}")
    checkpoint = Path(str(found.get("checkpoint", "best.ckpt"))).name
    if checkpoint != "best.ckpt":
        notes.append(f"of {checkpoint}")
    elif found and run.best and found.get("epoch") not in (None, run.seen.best_epoch):
        notes.append(f"of epoch {found['epoch'] + 1}, before the run was resumed")
    return tuple(notes)


def protocol(run: Run) -> str:
    """How the checkpoint was chosen, and on which split."""
    sentences = []
    if run.best is not None:
        images = run.val.get("images")
        where = f" on {counted(images, 'validation image')}" if images else ""
        value = number(run.seen.best, is_share(run.seen.monitor))
        sentences.append(f"Best epoch {run.best} of {run.epochs}, chosen by {run.seen.monitor} ({value}){where}")
    if split := run.seen.provenance.get("split_hash"):
        sentences.append(f"split {split}")
    return text("; ".join(sentences))


def headline(run: Run) -> str:
    """The number, large, with its interval, and the protocol."""
    found = score(run)
    if found.value is None:
        return f'<p class="lead">No score yet: {text(run.seen.monitor)} was not logged.</p>'
    parts = []
    if found.interval:
        low, high = (100 * bound for bound in found.interval)
        parts.append(f"95 % interval <b>{low:.1f}–{high:.1f}</b>")
    parts += [text(note) for note in found.notes]
    return (
        f'<p class="score">{found.shown}<small>{text(spoken(found.metric))}</small></p>'
        f'<p class="lead">{"; ".join(parts)}</p><p>{protocol(run)}</p>'
    )


def duration(seconds: float) -> str:
    """Seconds as one reads them: 2.3 s, 12.4 min, 3.1 h."""
    unit, size = next(((unit, size) for unit, size in (("h", 3600), ("min", 60)) if seconds >= size), ("s", 1))
    return f"{seconds / size:.1f} {unit}"


def facts(run: Run) -> str:
    """State, time, network, machine and origin."""
    seen, origin = run.seen, run.seen.provenance
    status, git, hardware = seen.status, origin.get("git") or {}, origin.get("hardware") or {}
    rows: dict[str, Any] = {"state": f"{seen.state}: {status['reason']}" if status.get("reason") else seen.state}
    rows["epochs"] = f"{run.epochs} of {seen.planned}" if seen.planned else run.epochs
    if "seconds" in status:
        rows["training"] = duration(status["seconds"])
    model = seen.config.get("model") or {}
    network = (model.get("backbone") or {}).get("class_path") or seen.config.get("class_path") or ""
    parameters = origin.get("parameters")
    rows["network"] = network.rpartition(".")[2] + (f", {parameters:,} parameters" if parameters else "")
    gpus = hardware.get("gpus") or []
    machine = f"{len(gpus)} × {gpus[0]}" if gpus else f"{hardware.get('cpu', '')}, {hardware.get('cores')} cores"
    rows["hardware"] = machine if hardware else ""
    dirty = ", with uncommitted changes" if git.get("status") else ""
    rows["git"] = f"{git['sha'][:10]}{dirty}" if git.get("sha") else ""
    rows["seed"], rows["started"] = origin.get("seed", ""), str(origin.get("started", ""))[:16].replace("T", " ")
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{isolated(value)}</dd></div>" for name, value in rows.items() if value != ""
    )
    command = origin.get("command")
    if command:
        cells += f'<div class="wide"><dt>command</dt><dd><code>{text(command)}</code></dd></div>'
    return f'<dl class="facts">{cells}</dl>'


def not_measured(run: Run, place: str) -> list[str]:
    """Sentences, as HTML, on what the page can't say, each with the command that would."""
    quoted, found = shlex.quote(place), list[str]()
    if not run.test and not run.seen.test:
        found.append(f"The test images: <code>lightning test --ckpt_path {text(quoted)}</code>")
    elif run.test and not run.is_plain(run.test) and not run.seen.test:
        found.append("The test with the options that the run was trained with.")
    for part, command, images in (("val", "validate", "validation"), ("test", "test", "test")):
        evaluation = run.val if part == "val" else run.test
        if reason := evaluation.get("reason"):
            found.append(f"Classes, calibration and mistakes on the {images} images: {text(reason)}.")
        elif not evaluation and (part == "val" or run.seen.test):
            found.append(
                f"Classes, calibration and mistakes on the {images} images: the run keeps none; "
                f"<code>lightning {command} --ckpt_path {text(quoted)}</code>"
            )
    if not run.seeds:
        found.append("The spread over seeds: this is one. The interval tells of the number of images alone.")
    if run.seen.state != FINISHED and run.seen.planned and run.epochs < run.seen.planned:
        left = counted(run.seen.planned - run.epochs, "epoch")
        found.append(f"The other {left}: <code>lightning fit --ckpt_path {text(quoted)}</code> resumes the run")
    if not isinstance(run.seen.provenance.get("git"), dict):
        found.append("The code: no git commit is known.")
    return [*found, *map(text, run.problems)]
