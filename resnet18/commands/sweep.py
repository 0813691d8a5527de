"""``lightning sweep``: the trials of a W&B sweep file as trainings here, without an account.

What was drawn and what it reached is kept line by line in ``sweep.jsonl``, so that the same command continues. Trial k
depends on the seed, on k and, where TPE draws it, on the trials before: nothing else has to be kept.
"""

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

from resnet18.cli.children import train, wait_for_orphan
from resnet18.cli.plain_parser import PlainParser
from resnet18.cli.sweep_file import Sweep, read_sweep
from resnet18.commands.sweep_trials import check_space, draw, score
from resnet18.errors import RunError, UsageError, counted, written
from resnet18.report.seed_groups import SEEDS, sum_up
from resnet18.report.seed_text import lines
from resnet18.storage.overview import Overview, differences, overview, short_names, shown
from resnet18.storage.records import CONFIG, write_json
from resnet18.storage.status import DIVERGED, FAILED, STOPPED

JOURNAL = "sweep.jsonl"
IN_A_ROW = 3  # failures, after which something other than the values is wrong


class Journal:
    """A sweep's ``sweep.jsonl``: what was asked for, then a line as a trial is drawn and one when it is done."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.path = folder / JOURNAL
        if not self.path.exists() and folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no {JOURNAL}; --name NAME writes elsewhere")
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # torn by a kill
            torn = lines.pop()
            os.truncate(self.path, self.path.stat().st_size - len(torn))
        self.asked, self.is_new = json.loads(json.dumps(asked)), not lines
        self.trials: dict[int, dict[str, Any]] = {}
        before = self.asked
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
                if number:
                    self._add(record)
                else:
                    before = record["asked"]
            except (ValueError, LookupError, TypeError):
                text = line[:60].decode(errors="replace").strip()
                raise RunError(f"{self.path}, line {number + 1} is damaged: {text}") from None
        if before != self.asked:
            changed = list(differences([before, self.asked]).items())[:3]
            what = "; ".join(f"{key}: {old} → {new}" for key, (old, new) in changed) or "parameters"
            raise UsageError(f"{folder} is a sweep of another kind: {what}. --name NAME starts a new one")

    def begin(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.append({"asked": self.asked})

    def append(self, record: dict[str, Any]) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(record).encode() + b"\n")
            os.fsync(file.fileno())
        if "trial" in record:
            self._add(record)

    def _add(self, record: dict[str, Any]) -> None:
        self.trials.setdefault(record["trial"], {}).update(record)

    @property
    def scored(self) -> list[dict[str, Any]]:
        return [trial for trial in self.trials.values() if trial.get("score") is not None]


class Runner:
    """Trains the trials of one sweep that are not done."""

    def __init__(self, sweep: Sweep, folder: Path, seed: int) -> None:
        self.sweep, self.folder, self.seed = sweep, folder, seed
        self.journal = Journal(folder, {**sweep.decisive, "seed": seed})
        swept = {key.replace(".init_args", ""): key for key, one in sweep.parameters.items() if len(one.choices) != 1}
        self.names = {swept[key]: name for key, name in short_names(swept).items()}  # of all but constants

    def run(self, count: int | None) -> None:
        """Until there are ``count`` trials, or the grid is done; RunError after three failures in a row."""
        failures = 0
        for number in itertools.count(1):
            trials = self.journal.trials
            if count is not None and number > count:
                return
            if trials.get(number, {}).get("state"):
                continue
            values = trials.get(number, {}).get("values")
            if values is None:
                past = [trials[one] for one in range(1, number)]
                if (values := draw(self.sweep, number, self.seed, past)) is None:
                    return
                if self.journal.is_new and number == 1:
                    check_space(self.sweep)
                    self.journal.begin()
                self.journal.append({"trial": number, "values": values})
            result = self._trial(number, values)
            self.journal.append({"trial": number, **result})
            failures = failures + 1 if result["score"] is None else 0
            if failures == IN_A_ROW:
                raise RunError(f"{counted(failures, 'trial')} in a row failed")

    def options(self, number: int) -> list[str]:
        path = self.folder / f"trial-{number}.json"
        path.write_text(json.dumps(self.journal.trials[number]["values"], indent=1) + "\n")
        return [*self.sweep.options, "--config", str(path)]

    def _trial(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        name = f"trial-{number}"
        print(f"{name}  {'  '.join(f'{short} {shown(values[key])}' for key, short in self.names.items())}", flush=True)
        try:
            run = self._train(self.folder, name, self.options(number), test=False)
        except (UsageError, RunError) as error:
            print(error, flush=True)
            return {"state": FAILED, "score": None, "epochs": None, "minutes": None}
        reached = None if run.state == DIVERGED else score(run, self.sweep.metric, self.sweep.goal)
        if run.state == DIVERGED:
            print(run.status.get("reason"), flush=True)
        elif reached is None:
            raise RunError(f"{run.directory} logged no {self.sweep.metric}")
        minutes = run.minutes and round(run.minutes, 2)
        return {"state": run.state, "score": reached, "epochs": run.epochs, "minutes": minutes}

    def _train(self, folder: Path, name: str, options: list[str], test: bool) -> Overview:
        """One training; if its process was killed, it is resumed once."""
        environment = {"WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP") or self.folder.name}
        wait_for_orphan(folder, name)
        try:
            return train(folder, name, options, environment, test)
        except RunError:
            directory = folder / name
            if not (directory / CONFIG).exists() or overview(directory).state != STOPPED:
                raise
        return train(folder, name, options, environment, test)

    def repeat(self, count: int) -> None:
        """Trains and tests the best values with the seeds 1 to ``count``; prints the mean and its intervals."""
        best = self.ranked()[0]
        folder = self.folder / f"repeat-trial-{best['trial']}"
        print(f"\ntrial-{best['trial']} with the seeds 1 to {count}", flush=True)
        options = self.options(best["trial"])
        for seed in range(1, count + 1):
            self._train(folder, f"seed-{seed}", [*options, f"--seed_everything={seed}"], test=True)
        found = sum_up(folder)
        write_json(folder / SEEDS, found)
        print("", *lines(found), sep="\n")

    def ranked(self) -> list[dict[str, Any]]:
        """The trials, best first; those that failed last."""
        sign = -1 if self.sweep.goal == "maximize" else 1
        done = [trial for trial in self.journal.trials.values() if "state" in trial]
        return sorted(done, key=lambda one: (one["score"] is None, sign * (one["score"] or 0), one["trial"]))


def table(runner: Runner) -> Any:
    """The trials, best first: what was swept, what was reached, how long it took."""
    from rich.table import Table

    rows, metric = Table(box=None, padding=(0, 1, 0, 0)), runner.sweep.metric
    rows.add_column("trial", justify="right")
    for name in runner.names.values():
        rows.add_column(name.replace("_", " "), overflow="fold")  # words, between which a line may break
    for name in (metric, "epochs", "min"):
        rows.add_column(name, justify="right", no_wrap=True)
    for trial in runner.ranked():
        reached = trial["state"] if trial["score"] is None else written(metric, trial["score"])
        epochs, minutes = (trial[key] for key in ("epochs", "minutes"))
        rows.add_row(
            str(trial["trial"]),
            *(shown(trial["values"][key]) for key in runner.names),
            reached,
            "" if epochs is None else str(epochs),
            "" if minutes is None else f"{minutes:.1f}",
        )
    return rows


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text}")
    return int(text)


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning sweep ARGUMENTS`` does."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("file", type=Path, help="a sweep file of W&B's, such as configs/sweeps/digits.yaml")
    parser.add_argument("--count", type=_positive, help="trials in all; a grid does without it")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn; the runs have the configuration's")
    parser.add_argument("--repeat", type=_positive, metavar="K", help="then train the best values with K seeds")
    parser.add_argument("--name", help="the directory under runs/; else the file's name or FILE-sweep")
    given = parser.parse_args(arguments)
    sweep = read_sweep(given.file)
    name = given.name or sweep.name
    if name[:1] in ("", ".") or not name.isprintable() or {*"/\\"} & set(name):
        raise UsageError(f"--name: must be a name without slashes or a dot at its start, not {name!r}")
    count = min((one for one in (given.count, sweep.content.get("run_cap")) if one), default=None)
    if count is None and sweep.method != "grid":
        raise UsageError(f"--count: {sweep.method} draws without end; say how many trials, as --count 20")
    runner = Runner(sweep, Path("runs", name), given.seed)
    try:
        runner.run(count)
    finally:
        if runner.journal.trials:
            from rich.console import Console

            Console(highlight=False).print("", table(runner))
    if given.repeat:
        if not runner.journal.scored:
            raise RunError("--repeat: no trial reached a score")
        runner.repeat(given.repeat)
