"""The trials of a sweep: what is drawn, whether ``fit`` takes it, and what a run is judged by."""

import itertools
import json
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from resnet18.cli.sweep_file import GOALS, Sweep
from resnet18.errors import RunError, UsageError, hint
from resnet18.storage.overview import Overview
from resnet18.storage.records import read_metrics

RANDOM_FIRST = 5  # trials before TPE has something to go by; Optuna's own 10 are for sweeps of hundreds


def draw(sweep: Sweep, number: int, seed: int, past: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The values of a trial, counted from 1; None if there are no more."""
    if sweep.method == "grid":
        choices = itertools.product(*(one.choices for one in sweep.parameters.values()))
        values = next(itertools.islice(choices, number - 1, None), None)
        return None if values is None else dict(zip(sweep.parameters, values, strict=True))
    rng = random.Random(f"{seed}/{number}")
    if sweep.method == "bayes":
        return _suggested(sweep, rng.randrange(2**32), past)
    return {key: one.draw(rng) for key, one in sweep.parameters.items()}


def _suggested(sweep: Sweep, seed: int, past: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What Optuna's tree-structured Parzen estimator draws after these trials."""
    try:
        import optuna
    except ImportError:
        raise RunError("method: bayes needs Optuna: pip install 'resnet18[sweep]'") from None
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {}
    for key, one in sweep.parameters.items():  # of choices their place: Optuna knows no lists
        if one.is_unordered:
            space[key] = CategoricalDistribution(range(len(one.choices)))
        elif one.choices:
            space[key] = IntDistribution(0, len(one.choices) - 1)
        else:
            space[key] = FloatDistribution(*one.bounds, log=one.distribution == "log_uniform_values")
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_FIRST)
    study = optuna.create_study(
        direction=sweep.goal,  # type: ignore[arg-type]
        sampler=sampler,
    )
    for trial in past:
        taken = {
            key: one.choices.index(trial["values"][key]) if one.choices else trial["values"][key]
            for key, one in sweep.parameters.items()
        }
        state = TrialState.FAIL if trial["score"] is None else TrialState.COMPLETE
        study.add_trial(create_trial(params=taken, distributions=space, value=trial["score"], state=state))
    asked = study.ask(space).params
    return {
        key: one.choices[asked[key]] if one.choices else one.rounded(asked[key])
        for key, one in sweep.parameters.items()
    }


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


def score(run: Overview, metric: str, goal: str) -> float | None:
    """What a finished run is judged by: ``best/NAME`` in its best epoch, ``val/NAME`` in the epoch where it is best."""
    name = f"val/{metric.partition('/')[2]}"
    values = {int(row["epoch"]): row[name] for row in read_metrics(run.directory) if name in row}
    if metric.startswith("best/"):
        return None if run.best_epoch is None else values.get(run.best_epoch)
    return GOALS[goal](values.values(), default=None)
