"""Tables: a run's configuration and origin, several runs side by side, and what several seeds reached."""

import json
from collections.abc import Sequence
from typing import Any

from resnet18.errors import counted
from resnet18.report.charts import swatch
from resnet18.report.headline import duration, score
from resnet18.report.markup import is_share, isolated, number, spoken, table, text
from resnet18.report.run_files import Run
from resnet18.storage.overview import differences, leaves, shown

DIFF = 20_000  # characters of it that are shown


def configuration(config: dict[str, Any]) -> str:
    """Every value, by section."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in config.items():
        known = isinstance(value, dict) and value
        sections.setdefault(name if known else "general", {}).update(leaves(value if known else {name: value}))
    return "".join(
        f"<details><summary>{text(name)}</summary>"
        f"{table((), [(text(key or 'class'), isolated(_written(value))) for key, value in values.items()], 'keys')}"
        "</details>"
        for name, values in sections.items()
    )


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def provenance(origin: dict[str, Any]) -> str:
    """Versions, machine, repository and what was not committed."""
    git = origin.get("git") or {}
    rows = {key: value for key, value in leaves(origin).items() if not key.startswith(("git.", "directory_git."))}
    rows |= {"git.sha": git.get("sha"), "git.directory": git.get("directory")}
    parts = table((), [(text(key), isolated(_written(value))) for key, value in rows.items()], "keys")
    for name in ("status", "diff"):
        if content := git.get(name):
            more = f"\n… {len(content) - DIFF:,} characters more in provenance.json" if len(content) > DIFF else ""
            parts += (
                f'<details><summary>git {name}</summary><pre tabindex="0">{text(content[:DIFF] + more)}</pre></details>'
            )
    return f"<details><summary>Versions, machine, command, repository</summary>{parts}</details>"


def scores(runs: Sequence[Run], names: Sequence[str]) -> str:
    """A row for each run: state, epochs, best, test with its interval, time."""
    rows = []
    for position, (run, name) in enumerate(zip(runs, names, strict=True)):
        found = score(run)
        best = f"{number(run.seen.best, is_share(run.seen.monitor))} in epoch {run.best}" if run.best else "–"
        interval = "".join(
            f" ({100 * found.interval[0]:.1f}–{100 * found.interval[1]:.1f})" for _ in [0] if found.interval
        )
        tested = f"{found.shown}{interval}" if found.metric.startswith("test/") else "–"
        seconds = run.seen.status.get("seconds")
        rows.append(
            (
                f'<span class="keyline"><span>{swatch(position)}<b>{text(name)}</b></span></span>',
                isolated(f"{run.seen.experiment}/{run.seen.name}"),
                text(run.seen.state),
                f"{run.epochs}",
                f'{best}<br><span class="quiet">{text(run.seen.monitor)}</span>',
                f'{tested}<br><span class="quiet">{text("; ".join(found.notes) if tested != "–" else "")}</span>',
                duration(seconds) if seconds is not None else "–",
            )
        )
    return table(("", "run", "state", "epochs", "best", "test", "training"), rows, "runs")


def differing(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The configured values in which runs differ."""
    rows = differences([run.seen.config for run in runs])
    if not rows:
        return '<p class="note">None.</p>'
    cells = [(text(key), *(isolated(shown(value)) for value in values)) for key, values in rows.items()]
    return table(("", *map(text, names)), cells, "differences")


def seeds(found: dict[str, Any]) -> str:
    """What ``lightning seeds`` found: the mean with its interval, each seed, and the comparison with another group."""
    metric = str(found["metric"])
    share = is_share(metric)
    rows = [
        (text(one["seed"]), text(one["state"]), number(one["value"], share), text((one.get("best_epoch") or 0) + 1))
        for one in found["per_seed"]
    ]
    each = table(("seed", "state", text(spoken(metric)), "best epoch"), rows)
    if not found["n"]:
        return each
    said = f"{text(spoken(metric))} <b>{number(found['mean'], share)}</b>, the mean of {counted(found['n'], 'seed')}"
    if found["sd"] is not None:
        said += f"; standard deviation {number(found['sd'], share)}"
    if found["ci95"]:
        said += f"; 95 % interval of the mean {_range(found['ci95'], share)} (Student's t)"
    notes = [f'<p class="lead">{said}</p>']
    if found.get("test_error"):
        notes.append(
            f"<p>That is the error of the seeds. The {found['test_images']:,} images are a sample too, which alone "
            f"leaves {_range(found['test_error'], share)} open (Wilson).</p>"
        )
    if other := found.get("against"):
        notes.append(_paired(other, share))
    return f"{''.join(notes)}{each}"


def _range(interval: Sequence[float], share: bool) -> str:
    low, high = (number(bound, share) for bound in interval)
    return f"{low} to {high}"


def _paired(other: dict[str, Any], share: bool) -> str:
    difference = number(other["mean_difference"], share)
    said = f"Against {isolated(other['group'])}, seed by seed: mean difference <b>{difference}</b>"
    if other["ci95"]:
        said += f", 95 % interval {_range(other['ci95'], share)}"
    if other["p"] is not None:
        said += f", p {other['p']:.4f} by t-test"
    if other["sign_flip_p"] is not None:
        said += f", p {other['sign_flip_p']:.4f} by exact sign flips"
        said += f" ({counted(other['n'], 'pair')} can't bring it below {other['floor']:.4f})"
    changed = other.get("differences") or {}
    rows = [(text(key), isolated(shown(here)), isolated(shown(there))) for key, (here, there) in changed.items()]
    return f"<p>{said}</p>{table(('', 'here', 'there'), rows) if rows else ''}"
