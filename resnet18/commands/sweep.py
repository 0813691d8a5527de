"""``lightning sweep``: the trials of a W&B sweep file as trainings here, without an account.

What was drawn and what it reached is kept line by line in ``sweep.jsonl``, so that the same command continues.
"""

import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from resnet18.cli.children import train
from resnet18.cli.plain import PlainParser, plain_name, print_table, whole
from resnet18.cli.sweep_file import GOALS, Sweep, read_sweep
from resnet18.errors import RunError, UsageError, counted, hint, written
from resnet18.report.seed_groups import SEED, SEEDS, lines, sum_up
from resnet18.storage.overview import Overview, differences, short_names, shown
from resnet18.storage.records import read_metrics, write_json
from resnet18.storage.status import DIVERGED, FAILED

JOURNAL = "sweep.jsonl"
IN_A_ROW = 3  # failures, after which something other than the values is wrong


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning sweep ARGUMENTS`` does."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("file", type=Path, help="a sweep file of W&B's, such as configs/sweeps/digits.yaml")
    parser.add_argument("--count", type=whole(1), help="trials in all; a grid does without it")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn; the runs have the configuration's")
    parser.add_argument("--repeat", type=whole(1), metavar="K", help="then train the best values with K seeds")
    parser.add_argument("--name", help="the directory under runs/; else the file's name or FILE-sweep")
    given = parser.parse_args(arguments)
    sweep = read_sweep(given.file)
    count = min((one for one in (given.count, sweep.run_cap) if one), default=None)
    if count is None and sweep.method != "grid":
        raise UsageError(f"--count: {sweep.method} draws without end; say how many trials, as --count 20")
    trials = Trials(sweep, Path("runs", plain_name("--name", given.name or sweep.name)), given.seed)
    try:
        trials.train(count)
    finally:
        if trials.lines:
            trials.show()
    if given.repeat:
        trials.repeat(given.repeat)


class Trials:
    """A sweep's trials, and its ``sweep.jsonl``: what was asked for, a line for each that is drawn or done."""

    def __init__(self, sweep: Sweep, folder: Path, seed: int) -> None:
        self.sweep, self.folder, self.seed, self.path = sweep, folder, seed, folder / JOURNAL
        self.asked = json.loads(json.dumps({**sweep.decisive, "seed": seed}))
        self.lines: dict[int, dict[str, Any]] = {}
        swept = {key.replace(".init_args", ""): key for key, one in sweep.parameters.items() if len(one.choices) != 1}
        self.names = {swept[key]: name for key, name in short_names(swept).items()}  # of all but constants
        if self.path.exists():
            self._read()
        elif folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no {JOURNAL}; --name NAME writes elsewhere")

    def _read(self) -> None:
        before = self.asked
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):  # torn by a kill
                os.truncate(self.path, self.path.stat().st_size - len(line))
                break
            try:
                record = json.loads(line)
                if number == 1:
                    before = record["asked"]
                else:
                    self.lines.setdefault(record["trial"], {}).update(record)
            except (ValueError, LookupError, TypeError):
                text = line[:60].decode(errors="replace").strip()
                raise RunError(f"{self.path}, line {number} is damaged: {text}") from None
        if before != self.asked:
            changed = list(differences([before, self.asked]).items())[:3]
            what = "; ".join(f"{key}: {old} → {new}" for key, (old, new) in changed) or "parameters"
            raise UsageError(f"{self.folder} is a sweep of another kind: {what}. --name NAME starts a new one")

    def _append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(record).encode() + b"\n")
            os.fsync(file.fileno())

    def _add(self, number: int, **found: Any) -> None:
        self._append({"trial": number, **found})
        self.lines.setdefault(number, {"trial": number}).update(found)

    def train(self, count: int | None) -> None:
        """Until there are ``count`` trials, or the grid is done; RunError after three failures in a row."""
        failures = 0
        for number in itertools.count(1) if count is None else range(1, count + 1):
            if "state" in self.lines.get(number, {}):
                continue
            if number not in self.lines:
                values = self.sweep.draw(number, self.seed, [self.lines[one] for one in range(1, number)])
                if values is None:
                    return
                if not self.lines:
                    check_space(self.sweep)
                    self._append({"asked": self.asked})
                self._add(number, values=values)
            self._add(number, **self._trained(number))
            failures = failures + 1 if self.lines[number]["score"] is None else 0
            if failures == IN_A_ROW:
                raise RunError(f"{counted(failures, 'trial')} in a row failed")

    def _options(self, number: int) -> list[str]:
        path = self.folder / f"trial-{number}.json"
        path.write_text(json.dumps(self.lines[number]["values"], indent=1) + "\n")
        return [*self.sweep.options, "--config", str(path)]

    def _swept(self, number: int, between: str) -> str:
        values = self.lines[number]["values"]
        return between.join(f"{name} {shown(values[key])}" for key, name in self.names.items())

    def _trained(self, number: int) -> dict[str, Any]:
        print(f"trial-{number}  {self._swept(number, '  ')}", flush=True)
        try:
            run = train(self.folder, f"trial-{number}", self._options(number), test=False)
        except (UsageError, RunError) as error:
            print(error, flush=True)
            return {"state": FAILED, "score": None, "epochs": None, "minutes": None}
        reached = None if run.state == DIVERGED else score(run, self.sweep.metric, self.sweep.goal)
        if run.state == DIVERGED:
            print(run.status.get("reason"), flush=True)
        elif reached is None:
            raise RunError(f"{run.directory} logged no {self.sweep.metric}")
        return {"state": run.state, "score": reached, "epochs": run.epochs, "minutes": run.minutes}

    def ranked(self) -> list[dict[str, Any]]:
        """The trials, best first; those that failed last."""
        sign = -1 if self.sweep.goal == "maximize" else 1
        done = [trial for trial in self.lines.values() if "state" in trial]
        return sorted(done, key=lambda one: (one["score"] is None, sign * (one["score"] or 0), one["trial"]))

    def show(self) -> None:
        """Prints the trials, best first: what was reached, how long it took, what was swept."""
        metric = self.sweep.metric
        rows = [["trial", "state", metric, "epochs", "min", "values"]]
        for one in self.ranked():
            reached = "" if one["score"] is None else written(metric, one["score"])
            minutes = "" if one["minutes"] is None else f"{one['minutes']:.1f}"
            values = self._swept(one["trial"], ", ")
            rows.append([str(one["trial"]), one["state"], reached, str(one["epochs"] or ""), minutes, values])
        print()
        print_table(rows)

    def repeat(self, count: int) -> None:
        """Trains and tests the best values with the seeds 1 to ``count``; prints the mean and its intervals."""
        best = next(iter(self.ranked()), None)
        if best is None or best["score"] is None:
            raise RunError("--repeat: no trial reached a score")
        folder = self.folder / f"repeat-trial-{best['trial']}"
        print(f"\ntrial-{best['trial']} with the seeds 1 to {count}", flush=True)
        options = self._options(best["trial"])
        for seed in range(1, count + 1):
            train(folder, f"seed-{seed}", [*options, f"--{SEED}={seed}"])
        found = sum_up(folder)
        write_json(folder / SEEDS, found)
        print("", *lines(found), sep="\n")


def score(run: Overview, metric: str, goal: str) -> float | None:
    """What a finished run is judged by: ``best/NAME`` in its best epoch, ``val/NAME`` in the epoch where it is best."""
    name = f"val/{metric.partition('/')[2]}"
    values = {int(row["epoch"]): row[name] for row in read_metrics(run.directory) if name in row}
    if metric.startswith("best/"):
        return None if run.best_epoch is None else values.get(run.best_epoch)
    return GOALS[goal](values.values(), default=None)


def check_space(sweep: Sweep) -> None:
    """UsageError if ``fit`` refuses any key or any of the values, or logs no such metric."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        commands = []
        for number, values in enumerate(sweep.corners()):
            path = Path(folder, f"{number}.json")
            path.write_text(json.dumps(values))
            commands.append([*sweep.options, f"--config={path}"])
        # In another process, which takes torch with it when it ends.
        said = pool.submit(refusal, commands, sweep.metric, sweep.goal).result()
        for *_, last in commands:
            said = said and said.replace(f"{last[9:]}: ", "").replace(f", {last[9:]}", "")
    if said:
        raise UsageError(f"{sweep.path}: {said}")


def refusal(commands: Sequence[Sequence[str]], metric: str, goal: str) -> str | None:
    """What the parser of ``fit`` says against a command line, or why its runs have no such metric."""
    from resnet18.cli.notices import filter_notices

    filter_notices()
    from resnet18.cli.fitting import Fit
    from resnet18.cli.trainer_parts import as_list

    name = f"val/{metric.partition('/')[2]}"
    try:
        for options in commands:
            program = Fit("fit", list(options), announce=False)
            modes = {key: mode for key, mode in program.model.metric_modes.items() if key.startswith("val/")}
            parts = (program.model, *as_list(program.config_init["trainer"].callbacks))
            # What a class of the user's logs is not known beforehand.
            if name not in modes and all(type(one).__module__.startswith(("lightning.", "resnet18.")) for one in parts):
                known = [*modes, *(f"best/{key[4:]}" for key in modes)]
                return f"metric.name: must be one of {', '.join(known)}, not {metric}{hint(metric, known)}"
            if modes.get(name) and modes[name] != goal[:3]:
                return f"metric.goal: {goal} contradicts {metric}, of which {modes[name]} is better"
    except (UsageError, RunError) as error:
        return str(error)
    return None
