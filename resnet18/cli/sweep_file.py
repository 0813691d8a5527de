"""Reads a W&B sweep file, and draws its trials: each depends on the seed, its number and, with TPE, those before."""

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet18.errors import RunError, UsageError, hint

KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project", "entity", "run_cap")
NOT_HERE = {  # of W&B's own sweeps
    "early_terminate": "every trial is trained to its end here",
    "metrics": "one metric is optimized here; give it as metric",
    "scheduler": "here Optuna's TPE draws for method: bayes",
}
METHODS = ("grid", "random", "bayes")
GOALS = {"maximize": max, "minimize": min}
STARTS = (["lightning", "fit"], ["resnet18", "fit"])
TRIAL = ["--config", "${args_json_file}"]
DISTRIBUTIONS = {  # and the keys of each
    **{"constant": ("value",), "categorical": ("values",), "int_uniform": ("min", "max"), "uniform": ("min", "max")},
    **{"log_uniform_values": ("min", "max"), "q_uniform": ("min", "max", "q")},
}
DIGITS = 4  # of a number that is drawn from a range: enough, and short in a table
RANDOM_FIRST = 5  # trials before TPE has something to go by; Optuna's own 10 are for sweeps of hundreds


@dataclass(frozen=True)
class Parameter:
    """What a swept key may be set to: one of the choices, or a number within bounds."""

    choices: Sequence[Any] = ()
    is_ordered: bool = False
    bounds: tuple[float, float] = (0.0, 0.0)
    is_log: bool = False

    def draw(self, rng: random.Random) -> Any:
        if self.choices:
            return rng.choice(self.choices)
        if self.is_log:
            return self.rounded(math.exp(rng.uniform(*map(math.log, self.bounds))))
        return self.rounded(rng.uniform(*self.bounds))

    def rounded(self, value: float) -> float:
        low, high = self.bounds
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def extremes(self) -> Sequence[Any]:
        """All choices, or of numbers in a row the first and the last."""
        if self.is_ordered:
            return self.choices[0], self.choices[-1]
        return self.choices or self.bounds


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been checked as far as it can be without the parser of ``fit``."""

    path: Path
    name: str
    method: str
    metric: str
    goal: str
    run_cap: int | None
    options: list[str]  # of ``fit``, before the trial's own file
    parameters: dict[str, Parameter]
    decisive: dict[str, Any]  # what may not change between the trials of one sweep

    def corners(self) -> list[dict[str, Any]]:
        """A few trials that together have every choice and both bounds of every parameter."""
        extremes = {key: one.extremes() for key, one in self.parameters.items()}
        most = max(len(values) for values in extremes.values())
        return [{key: values[k % len(values)] for key, values in extremes.items()} for k in range(most)]

    def draw(self, number: int, seed: int, past: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """The values of a trial, counted from 1; None if there are no more."""
        if self.method == "grid":
            choices = itertools.product(*(one.choices for one in self.parameters.values()))
            values = next(itertools.islice(choices, number - 1, None), None)
            return None if values is None else dict(zip(self.parameters, values, strict=True))
        rng = random.Random(f"{seed}/{number}")
        if self.method == "bayes":
            return self._suggested(rng.randrange(2**32), past)
        return {key: one.draw(rng) for key, one in self.parameters.items()}

    def _suggested(self, seed: int, past: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """What Optuna's tree-structured Parzen estimator draws after these trials."""
        try:
            import optuna
        except ImportError:
            raise RunError("method: bayes needs Optuna: pip install 'resnet18[sweep]'") from None
        from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space: dict[str, BaseDistribution] = {}
        for key, one in self.parameters.items():  # of choices their place: Optuna knows no lists
            if one.is_ordered:
                space[key] = IntDistribution(0, len(one.choices) - 1)
            elif one.choices:
                space[key] = CategoricalDistribution(range(len(one.choices)))
            else:
                space[key] = FloatDistribution(*one.bounds, log=one.is_log)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_FIRST)
        study = optuna.create_study(direction=self.goal, sampler=sampler)  # type: ignore[arg-type]
        choices = {key: one.choices for key, one in self.parameters.items()}
        for trial in past:
            taken = {
                key: choices[key].index(value) if choices[key] else value for key, value in trial["values"].items()
            }
            state = optuna.trial.TrialState.FAIL if trial["score"] is None else optuna.trial.TrialState.COMPLETE
            study.add_trial(optuna.create_trial(params=taken, distributions=space, value=trial["score"], state=state))
        asked = study.ask(space).params
        return {
            key: one.choices[asked[key]] if one.choices else one.rounded(asked[key])
            for key, one in self.parameters.items()
        }


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file; UsageError, by file and key, for what is unknown, missing, contradictory or not done here."""
    from resnet18.cli.config_files import read_yaml

    content = read_yaml(path)
    try:
        return _checked(path, content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _checked(path: Path, content: dict[str, Any]) -> Sweep:
    for key in content:
        if key in NOT_HERE:
            raise UsageError(f"{key}: {NOT_HERE[key]}")
        _check_known("", key, KEYS)
    method, metric, parameters = (content.get(key) for key in ("method", "metric", "parameters"))
    _check_value("method", method, METHODS)
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UsageError("metric: must be {name: best/top1, goal: maximize} or the like")
    for key in metric:
        _check_known("metric.", key, ("name", "goal"))
    _check_value("metric.goal", metric.get("goal"), GOALS)
    part, _, name = metric["name"].partition("/")
    if part == "test":
        raise UsageError(f"metric.name: {metric['name']}: nothing is chosen by the test images; take best/{name}")
    if part not in ("best", "val") or not name:
        raise UsageError(f"metric.name: must be best/NAME or val/NAME, such as best/top1, not {metric['name']}")
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError("parameters: must hold keys of fit, such as model.optimizer.init_args.lr, with their values")
    if (cap := content.get("run_cap")) is not None and (type(cap) is not int or cap < 1):
        raise UsageError(f"run_cap: must be a whole number from 1, not {cap!r}")
    space = {str(key): _parameter(f"parameters.{key}", spec, str(method)) for key, spec in parameters.items()}
    options = _options(content, space)
    decisive = {"method": method, "metric": metric, "parameters": parameters, "command": " ".join(options)}
    called = str(content.get("name") or f"{path.stem}-sweep")
    return Sweep(path, called, str(method), metric["name"], metric["goal"], cap, options, space, decisive)


def _check_known(group: str, key: Any, known: Sequence[str]) -> None:
    if key not in known:
        advice = hint(str(key), known) or f"; there are {', '.join(known)}"
        raise UsageError(f"{group}{key}: there is no such key{advice}")


def _check_value(key: str, value: Any, known: Iterable[str]) -> None:
    if value not in (known := [*known]):
        raise UsageError(f"{key}: must be one of {', '.join(known)}, not {value}{hint(str(value), known)}")


def _options(content: dict[str, Any], space: dict[str, Parameter]) -> list[str]:
    """What the command has between ``fit`` and the trial's file."""
    command, usual = content.get("command"), f"[{', '.join((*STARTS[0], '…', *TRIAL))}]"
    if not isinstance(command, list):
        raise UsageError(f"command: must be a list such as {usual}")
    words = [str(word).replace("${program}", str(content.get("program"))) for word in command]
    words = [word for word in words if word not in ("${env}", "${interpreter}", "-m")]
    if words[:2] not in STARTS:
        raise UsageError(f"command: must start lightning fit, as in {usual}, not {' '.join(words[:4])}")
    if words[-2:] != TRIAL:
        reason = "; ${args} would turn null into a text" if "${args}" in words else ""
        raise UsageError(f"command: must end in {' '.join(TRIAL)}{reason}")
    for word in words[2:-2]:
        option = word.partition("=")[0].replace(".init_args", "").removeprefix("--")
        if "${" in word:
            raise UsageError(f"command: {word} is not known here")
        if option in ("run_dir", "ckpt_path"):
            raise UsageError(f"command: {word}: a sweep gives each trial its own directory")
        if any(option == key.replace(".init_args", "") for key in space):
            raise UsageError(f"command: {word}: an option would beat the sweep's values of {option}")
    return words[2:-2]


def _parameter(key: str, spec: Any, method: str) -> Parameter:
    if not isinstance(spec, dict):
        raise UsageError(f"{key}: must be {{value: …}}, {{values: […]}} or {{min: …, max: …}}, not {spec!r}")
    if "parameters" in spec:
        raise UsageError(f"{key}: write nested parameters as dotted keys: {key.partition('.')[2]}.KEY")
    name = spec.get("distribution") or _meant(spec)
    _check_value(f"{key}.distribution", name, DISTRIBUTIONS)
    given = {"q": 1, **spec} if name == "q_uniform" else spec
    for one in given:
        _check_known(f"{key}.", one, ("distribution", *DISTRIBUTIONS[name]))
    if missing := [one for one in DISTRIBUTIONS[name] if one not in given]:
        raise UsageError(f"{key}: {name} needs {' and '.join(missing)}")
    if method == "grid" and name in ("uniform", "log_uniform_values"):
        raise UsageError(f"{key}.distribution: a grid needs values, int_uniform or q_uniform, not {name}")
    if name == "constant":
        return Parameter([given["value"]])
    if name == "categorical":
        if not isinstance(given["values"], list) or not given["values"]:
            raise UsageError(f"{key}.values: must be a list of values, not {given['values']!r}")
        return Parameter(given["values"])
    return _numeric(key, name, [(one, given[one]) for one in DISTRIBUTIONS[name]])


def _meant(spec: dict[str, Any]) -> str:
    """The distribution of a parameter that names none, as W&B takes it."""
    if "min" in spec or "max" in spec:
        return "int_uniform" if type(spec.get("min")) is type(spec.get("max")) is int else "uniform"
    return "constant" if "value" in spec else "categorical"


def _numeric(key: str, name: str, numbers: Sequence[tuple[str, Any]]) -> Parameter:
    whole = name == "int_uniform"
    for one, value in numbers:
        if type(value) is not int and (whole or type(value) is not float or not math.isfinite(value)):
            text = "; YAML reads 1e-3 as text, and 1.0e-3 as a number" if isinstance(value, str) else ""
            raise UsageError(f"{key}.{one}: must be a {'whole ' if whole else ''}number, not {value!r}{text}")
        if value <= 0 and (one == "q" or name == "log_uniform_values"):
            raise UsageError(f"{key}.{one}: must be above 0, not {value}")
    low, high, *step = (value for _, value in numbers)
    if low >= high:
        raise UsageError(f"{key}.min: must be below max, {high}, not {low}")
    if whole:
        return Parameter(range(low, high + 1), is_ordered=True)
    if step:
        count = math.floor((high - low) / step[0] + 1e-9) + 1
        return Parameter([round(low + k * step[0], 12) for k in range(count)], is_ordered=True)
    return Parameter(bounds=(low, high), is_log=name == "log_uniform_values")
