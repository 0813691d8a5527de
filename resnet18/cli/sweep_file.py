"""Reads a W&B sweep file: its command, its metric and what its parameters' values may be."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet18.errors import UsageError, hint

KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project", "entity", "run_cap")
NOT_HERE = {  # of W&B's own sweeps
    "early_terminate": "every trial is trained to its end here",
    "metrics": "one metric is optimized here; give it as metric",
    "scheduler": "here Optuna's TPE draws for method: bayes",
}
METHODS = ("grid", "random", "bayes")
GOALS = {"maximize": max, "minimize": min}
STARTS = (["${interpreter}", "-m", "resnet18", "fit"], ["lightning", "fit"], ["resnet18", "fit"])
TRIAL = ["--config", "${args_json_file}"]
DISTRIBUTIONS = {  # and the keys of each
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
}
DIGITS = 4  # of a number that is drawn from a range: enough, and short in a table


@dataclass(frozen=True)
class Parameter:
    """What a swept key may be set to: one of the choices, or a number within bounds."""

    distribution: str
    choices: Sequence[Any] = ()
    weights: Sequence[float] | None = None  # of the choices; None: each is as likely
    bounds: tuple[float, float] = (0.0, 0.0)  # of a number; of a normal distribution mean and standard deviation

    @property
    def is_unordered(self) -> bool:
        return self.distribution in ("constant", "categorical", "categorical_w_probabilities")

    def draw(self, rng: random.Random) -> Any:
        if self.choices:
            return rng.choices(self.choices, self.weights)[0]
        if self.distribution == "normal":
            return float(f"{rng.gauss(*self.bounds):.{DIGITS}g}")
        if self.distribution == "log_uniform_values":
            return self.rounded(math.exp(rng.uniform(*map(math.log, self.bounds))))
        return self.rounded(rng.uniform(*self.bounds))

    def rounded(self, value: float) -> float:
        low, high = self.bounds
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def extremes(self) -> Sequence[Any]:
        """All choices, or of numbers in a row the first and the last."""
        if self.choices:
            return self.choices if self.is_unordered else (self.choices[0], self.choices[-1])
        return (self.bounds[0],) if self.distribution == "normal" else self.bounds


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been checked as far as it can be without the parser of ``fit``."""

    path: Path
    content: dict[str, Any]  # as it is written
    options: list[str]  # of ``fit``, before the trial's own file
    parameters: dict[str, Parameter]

    @property
    def method(self) -> str:
        return self.content["method"]

    @property
    def metric(self) -> str:
        return self.content["metric"]["name"]

    @property
    def goal(self) -> str:
        return self.content["metric"]["goal"]

    @property
    def name(self) -> str:
        return str(self.content.get("name") or f"{self.path.stem}-sweep")

    @property
    def decisive(self) -> dict[str, Any]:
        """What may not change between the trials of one sweep."""
        kept = {key: self.content[key] for key in ("method", "metric", "parameters")}
        return {**kept, "command": " ".join(self.options)}

    def corners(self) -> list[dict[str, Any]]:
        """A few trials that together have every choice and both bounds of every parameter."""
        extremes = {key: one.extremes() for key, one in self.parameters.items()}
        most = max(len(values) for values in extremes.values())
        return [{key: values[k % len(values)] for key, values in extremes.items()} for k in range(most)]


def read_sweep(path: Path) -> Sweep:
    """Reads and checks a sweep file.

    Raises:
        UsageError: Naming file and key, for whatever is unknown, missing, contradictory or not done here.
    """
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
    return Sweep(path, content, _options(content, space), space)


def _check_known(group: str, key: Any, known: Sequence[str]) -> None:
    if key not in known:
        advice = hint(str(key), known) or f"; there are {', '.join(known)}"
        raise UsageError(f"{group}{key}: there is no such key{advice}")


def _check_value(key: str, value: Any, known: Any) -> None:
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"{key}: must be one of {', '.join(known)}, not {value}{hint(str(value), known)}")


def _options(content: dict[str, Any], space: dict[str, Parameter]) -> list[str]:
    """What the command has between ``fit`` and the trial's file."""
    command, usual = content.get("command"), f"[{', '.join((*STARTS[1], '…', *TRIAL))}]"
    if not isinstance(command, list) or not all(isinstance(word, str | int | float) for word in command):
        raise UsageError(f"command: must be a list such as {usual}")
    words = [str(word).replace("${program}", str(content.get("program"))) for word in command if word != "${env}"]
    start = next((start for start in STARTS if words[: len(start)] == start), None)
    if start is None:
        raise UsageError(f"command: must start lightning fit, as in {usual}, not {' '.join(words[:4])}")
    if words[-2:] != TRIAL:
        reason = "; ${args} would turn null into a text" if "${args}" in words else ""
        raise UsageError(f"command: must end in {' '.join(TRIAL)}{reason}")
    words = words[len(start) : -2]
    for word in words:
        option = word.partition("=")[0].replace(".init_args", "").removeprefix("--")
        if "${" in word:
            raise UsageError(f"command: {word} is not known here")
        if option in ("run_dir", "ckpt_path"):
            raise UsageError(f"command: {word}: a sweep gives each trial its own directory")
        if any(option == key.replace(".init_args", "") for key in space):
            raise UsageError(f"command: {word}: an option would beat the sweep's values of {option}")
    return words


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
    if method == "bayes" and name in ("normal", "categorical_w_probabilities"):
        raise UsageError(f"{key}.distribution: {name} needs method: random; Optuna's TPE does not draw from it")
    if method == "grid" and name in ("uniform", "log_uniform_values", "normal"):
        raise UsageError(f"{key}.distribution: a grid needs values, int_uniform or q_uniform, not {name}")
    if name == "constant":
        return Parameter(name, [given["value"]])
    return (_categorical if "values" in given else _numeric)(key, name, given)


def _meant(spec: dict[str, Any]) -> str:
    """The distribution of a parameter that names none, as W&B takes it."""
    if "probabilities" in spec:
        return "categorical_w_probabilities"
    if "min" in spec or "max" in spec:
        return "int_uniform" if type(spec.get("min")) is type(spec.get("max")) is int else "uniform"
    return "constant" if "value" in spec else "categorical"


def _categorical(key: str, name: str, given: dict[str, Any]) -> Parameter:
    values, weights = given["values"], given.get("probabilities")
    if not isinstance(values, list) or not values:
        raise UsageError(f"{key}.values: must be a list of values, not {values!r}")
    if weights is not None:
        numbers = isinstance(weights, list) and all(type(one) in (int, float) and one >= 0 for one in weights)
        if not numbers or len(weights) != len(values) or not math.isclose(sum(weights), 1):
            raise UsageError(f"{key}.probabilities: must be one number for each value, with the sum 1")
    return Parameter(name, values, weights)


def _numeric(key: str, name: str, given: dict[str, Any]) -> Parameter:
    numbers = {one: given[one] for one in DISTRIBUTIONS[name]}
    for one, value in numbers.items():
        whole = name == "int_uniform"
        if type(value) is not int and (whole or type(value) is not float or not math.isfinite(value)):
            text = "; YAML reads 1e-3 as text, and 1.0e-3 as a number" if isinstance(value, str) else ""
            raise UsageError(f"{key}.{one}: must be a {'whole ' if whole else ''}number, not {value!r}{text}")
    above_zero = {"log_uniform_values": "min", "q_uniform": "q", "normal": "sigma"}.get(name)
    if above_zero and numbers[above_zero] <= 0:
        raise UsageError(f"{key}.{above_zero}: must be above 0, not {numbers[above_zero]}")
    low, high, *step = numbers.values()
    if name == "normal":
        return Parameter(name, bounds=(low, high))
    if low >= high:
        raise UsageError(f"{key}.min: must be below max, {high}, not {low}")
    if name == "int_uniform":
        return Parameter(name, range(low, high + 1))
    if step:
        count = math.floor((high - low) / step[0] + 1e-9) + 1
        return Parameter(name, [round(low + k * step[0], 12) for k in range(count)])
    return Parameter(name, bounds=(low, high))
