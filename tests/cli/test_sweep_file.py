"""Sweep files: what is refused, by file and key, and what is drawn from those that are not."""

import json
import math
import random
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from conftest import ROOT

from resnet18.cli.sweep_file import Sweep, read_sweep
from resnet18.errors import RunError, UsageError

SHIPPED = ROOT / "configs" / "sweeps" / "digits.yaml"
GOOD: dict[str, Any] = {
    "method": "random",
    "metric": {"name": "best/top1", "goal": "maximize"},
    "parameters": {"model.ema": {"values": [0.0, 0.9]}},
    "command": ["lightning", "fit", "--config", "a.yaml", "--config", "${args_json_file}"],
}


def sweep_of(tmp_path: Path, **changes: Any) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return read_sweep(path)


def one(**spec: Any) -> dict[str, Any]:
    return {"parameters": {"model.x": spec}}


def command(*words: str) -> dict[str, Any]:
    return {"command": list(words)}


END = ("--config", "${args_json_file}")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"paramters": {}}, "paramters: there is no such key; did you mean parameters?"),
    "method": ({"method": "baye"}, "method: must be one of grid, random, bayes, not baye; did you mean bayes?"),
    "early": ({"early_terminate": {"type": "hyperband"}}, "early_terminate: every trial is trained to its end"),
    "metrics": ({"metrics": []}, "metrics: one metric"),
    "scheduler": ({"scheduler": {}}, "scheduler: here Optuna's TPE"),
    "cap": ({"run_cap": 0}, "run_cap: must be a whole number from 1, not 0"),
    "no metric": ({"metric": None}, "metric: must be {name: best/top1, goal: maximize}"),
    "metric key": ({"metric": {"name": "best/top1", "gaol": "maximize"}}, "metric.gaol: .* did you mean goal?"),
    "goal": ({"metric": {"name": "best/top1", "goal": "maximise"}}, "metric.goal: .* did you mean maximize?"),
    "no goal": ({"metric": {"name": "best/top1"}}, "metric.goal: must be one of maximize, minimize, not None"),
    "test": (
        {"metric": {"name": "test/top1", "goal": "maximize"}},
        "nothing is chosen by the test images; .*best/top1",
    ),
    "train": ({"metric": {"name": "train/loss", "goal": "minimize"}}, "must be best/NAME or val/NAME.* not train/loss"),
    "nothing": ({"parameters": {}}, "parameters: must hold keys of fit"),
    "bare": ({"parameters": {"model.x": 3}}, r"parameters.model.x: must be \{value: …\}, .*, not 3"),
    "nested": (one(parameters={"y": {"value": 1}}), "parameters.model.x: write nested .* as dotted keys: model.x.KEY"),
    "distribution": (one(distribution="unifrom", min=0, max=1), "model.x.distribution: .* did you mean uniform?"),
    "beta": (one(distribution="beta", a=0, b=1), "must be one of constant, categorical, .*, q_uniform, not beta"),
    "parameter": (one(valus=[1]), "parameters.model.x.valus: there is no such key; did you mean values?"),
    "both": (one(values=[1], value=1), "parameters.model.x.values: there is no such key"),
    "missing": (one(min=1), "parameters.model.x: uniform needs max"),
    "empty": (one(values=[]), r"values: must be a list of values, not \[\]"),
    "order": (one(min=1.0, max=0.5), "parameters.model.x.min: must be below max, 0.5, not 1.0"),
    "log": (one(distribution="log_uniform_values", min=0, max=1), "model.x.min: must be above 0, not 0"),
    "step": (one(distribution="q_uniform", min=0, max=1, q=0), "model.x.q: must be above 0, not 0"),
    "text": (one(min="1e-4", max=1.0), "model.x.min: must be a number, not '1e-4'; YAML reads 1e-3 as text"),
    "infinite": (one(min=0.0, max=math.inf), "model.x.max: must be a number, not inf"),
    "half": (one(distribution="int_uniform", min=0, max=1.5), "model.x.max: must be a whole number, not 1.5"),
    "grid": ({"method": "grid", **one(min=0.0, max=1.0)}, "a grid needs values, int_uniform or q_uniform, not uniform"),
    "no command": ({"command": None}, r"command: must be a list such as \[lightning, fit, …, --config, "),
    "program": (
        command("python", "train.py", *END),
        "command: must start lightning fit, .* not python train.py --conf",
    ),
    "args": (command("lightning", "fit", "${args}"), r"must end in --config \S+; \${args} would turn null into a text"),
    "macro": (command("lightning", "fit", "${envvar:X}", *END), r"command: \${envvar:X} is not known here"),
    "place": (command("lightning", "fit", "--run_dir=x", *END), "--run_dir=x: a sweep gives each trial its own dir"),
    "swept": (command("lightning", "fit", "--model.ema", "0.5", *END), "--model.ema: an option would beat the sweep's"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_by_file_and_key(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as refused:
        sweep_of(tmp_path, **changes)
    assert str(refused.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_is_read(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    assert (sweep.method, sweep.metric, sweep.goal, sweep.name) == ("random", "best/top1", "maximize", "mine-sweep")
    assert sweep.options == ["--config", "a.yaml"]
    begun = ["${env}", "${interpreter}", "-m", "${program}", "fit", "--trainer.max_epochs", 3, *END]
    named = sweep_of(tmp_path, command=begun, program="resnet18", name="other")
    assert (named.name, named.options) == ("other", ["--trainer.max_epochs", "3"])


DRAWN: dict[str, tuple[dict[str, Any], set[Any], list[Any]]] = {  # all that can be drawn, and the extremes
    "value": ({"value": None}, {None}, [None]),
    "values": ({"values": [None, "a"]}, {None, "a"}, [None, "a"]),
    "whole": ({"min": 1, "max": 3}, {1, 2, 3}, [1, 3]),
    "steps": ({"distribution": "q_uniform", "min": 0.1, "max": 0.75, "q": 0.2}, {0.1, 0.3, 0.5, 0.7}, [0.1, 0.7]),
}


@pytest.mark.parametrize("case", DRAWN)
def test_choices_are_all_drawn(case: str, tmp_path: Path) -> None:
    spec, choices, extremes = DRAWN[case]
    parameter = sweep_of(tmp_path, **one(**spec)).parameters["model.x"]
    rng = random.Random(0)
    assert {parameter.draw(rng) for _ in range(100)} == choices
    assert list(parameter.extremes()) == extremes


def test_numbers_are_drawn_within_their_bounds_and_are_short(tmp_path: Path) -> None:
    specs = {
        "flat": {"min": 0.0, "max": 2.0},
        "log": {"distribution": "log_uniform_values", "min": 0.00123456, "max": 1},
    }
    rng = random.Random(0)
    parameters = sweep_of(tmp_path, parameters=specs).parameters
    flat, log = ([parameters[name].draw(rng) for _ in range(500)] for name in specs)
    assert all(0 <= value <= 2 and value == float(f"{value:.4g}") for value in flat)
    assert mean(flat) == pytest.approx(1, abs=0.1)
    assert all(0.00123456 <= value <= 1 for value in log)
    assert mean(map(math.log10, log)) == pytest.approx(math.log10(0.00123456) / 2, abs=0.15)
    assert [list(parameters[name].extremes()) for name in specs] == [[0.0, 2.0], [0.00123456, 1]]


def test_few_trials_have_every_value_of_the_shipped_file() -> None:
    sweep = read_sweep(SHIPPED)
    corners = sweep.corners()
    assert len(corners) == max(len(one.extremes()) for one in sweep.parameters.values())
    for key, parameter in sweep.parameters.items():
        assert [*dict.fromkeys(corner[key] for corner in corners)] == list(parameter.extremes())


SPACE = {
    "lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0},
    "net": {"values": ["a", None, ["b", "c"]]},
    "layers": {"min": 1, "max": 8},
    "drop": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1},
}


def test_a_grid_is_gone_through_in_order(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path, method="grid", parameters={"a": {"values": [None, "x"]}, "b": {"min": 1, "max": 2}, "c": {"value": 3}}
    )
    drawn = [sweep.draw(number, 1, []) for number in range(1, 6)]
    assert [tuple(values.values()) for values in drawn if values] == [
        (None, 1, 3),
        (None, 2, 3),
        ("x", 1, 3),
        ("x", 2, 3),
    ]
    assert drawn[4] is None


def test_random_trials_depend_on_the_seed_and_their_number_alone(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, parameters=SPACE)
    first = [sweep.draw(number, 1, []) for number in range(1, 6)]
    assert first == [sweep.draw(number, 1, [{"values": {}, "score": 1.0}]) for number in range(1, 6)]
    assert len({json.dumps(values) for values in first}) == 5
    assert first != [sweep.draw(number, 2, []) for number in range(1, 6)]


def past_of(sweep: Sweep, count: int, objective: Any, seed: int = 1) -> list[dict[str, Any]]:
    past: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        values = sweep.draw(number, seed, past)
        assert values is not None
        past.append({"values": values, "score": objective(values)})
    return past


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_tpe_is_told_what_was_reached(goal: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, method="bayes", parameters=SPACE, metric={"name": "val/x", "goal": goal})
    sign = 1 if goal == "maximize" else -1
    past = past_of(sweep, 40, lambda values: sign * ((values["net"] is None) - abs(values["layers"] - 6)))
    late = past[20:]
    assert sum(trial["values"]["net"] is None for trial in late) > 12  # 7 of 20 by chance
    assert sum(trial["values"]["layers"] in (5, 6, 7) for trial in late) > 12  # 8 by chance
    for trial in past:
        for key, value in trial["values"].items():
            choices = sweep.parameters[key].choices
            assert value in choices if choices else 1e-4 <= value <= 1


def test_tpe_draws_the_same_trials_again_and_others_after_other_results(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, method="bayes", parameters=SPACE)
    past = past_of(sweep, 12, lambda values: values["lr"])
    stored = json.loads(json.dumps(past))
    assert [sweep.draw(number, 1, stored[: number - 1]) for number in range(1, 13)] == [one["values"] for one in past]
    other = [{**trial, "score": -trial["score"]} for trial in past]
    assert sweep.draw(13, 1, past) != sweep.draw(13, 1, other)
    failed = [{**trial, "score": None} if number % 2 else trial for number, trial in enumerate(past)]
    assert sweep.draw(13, 1, failed)


def test_without_optuna_only_bayes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep_of(tmp_path).draw(1, 1, [])
    with pytest.raises(RunError, match=r"pip install 'resnet18\[sweep\]'"):
        sweep_of(tmp_path, method="bayes").draw(1, 1, [])
