"""A sweep's trials: the same ones from the same seed, accepted by ``fit``, and judged by what a real run logged."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, wandb_records
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from resnet18.cli.fitting import Fit
from resnet18.cli.sweep_file import Sweep, read_sweep
from resnet18.commands import sweep_trials
from resnet18.commands.sweep_trials import check_space, draw, refusal, score
from resnet18.errors import RunError, UsageError
from resnet18.storage.overview import overview

SHIPPED = ROOT / "configs" / "sweeps" / "digits.yaml"


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a sweep from the shipped file with other content."""
    monkeypatch.chdir(ROOT)

    def make(**changes: Any) -> Sweep:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(SHIPPED.read_text()), **changes}))
        return read_sweep(path)

    return make


def test_fit_accepts_what_an_agent_makes_of_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(SHIPPED)
    for values in sweep.corners():
        expanded = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
        (tmp_path / "trial.json").write_text(expanded["args_json"][0])
        config = Fit("fit", [*sweep.options, "--config", str(tmp_path / "trial.json")], announce=False).config
        for key, value in values.items():
            found = config.get(key)
            assert (found.class_path if hasattr(found, "class_path") else found) == value


def test_the_metric_of_the_shipped_file_is_a_plain_number_of_a_run(trained: Path) -> None:
    sweep = read_sweep(SHIPPED)
    summary: dict[str, Any] = {}
    for record in wandb_records(trained / "wandb" / "latest-run"):
        summary |= record["summary"].get("update", {}) if record["type"] == "summary" else {}
    assert isinstance(summary[sweep.metric], float)
    assert score(overview(trained), sweep.metric, sweep.goal) == pytest.approx(summary[sweep.metric])


def test_a_run_is_judged_in_its_best_epoch_or_where_the_metric_is_best(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())  # best by val/top1
    rows = ["epoch,val/loss,val/top1", "0,0.3,0.8", "1,0.5,0.9", "2,0.4,0.7"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    run = overview(tmp_path)
    assert score(run, "best/top1", "maximize") == score(run, "val/top1", "maximize") == 0.9
    assert (score(run, "best/loss", "minimize"), score(run, "val/loss", "minimize")) == (0.5, 0.3)
    assert score(run, "val/none", "minimize") is score(run, "best/none", "minimize") is None


WRONG = {
    "key": ({"model.optimizer.init_args.lrr": {"value": 0.1}}, {}, r"model.optimizer.lrr: .* did you mean lr\?"),
    "group": ({"modl.ema": {"value": 0.1}}, {}, r"modl: there is no such key; did you mean model\?"),
    "last value": ({"model.ema": {"values": [0.0, 0.5, 1.5]}}, {}, "model.ema: "),
    "upper bound": ({"model.label_smoothing": {"min": 0.0, "max": 1.5}}, {}, "model.label_smoothing: "),
    "metric": ({"model.ema": {"value": 0.1}}, {"name": "best/topp1"}, r"metric.name: .* did you mean best/top1\?"),
    "goal": ({"model.ema": {"value": 0.1}}, {"name": "val/loss"}, "metric.goal: maximize contradicts val/loss"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_fit_refuses_is_refused_before_the_first_trial(case: str, change, monkeypatch) -> None:
    # In this process: another takes 5 s to start.
    monkeypatch.setattr(sweep_trials, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    parameters, metric, message = WRONG[case]
    sweep = change(parameters=parameters, metric={"name": "best/top1", "goal": "maximize", **metric})
    with pytest.raises(UsageError, match=message) as refused:
        check_space(sweep)
    assert str(refused.value).startswith(f"{sweep.path}: ")
    assert len(str(refused.value).splitlines()) == 1
    assert ".json" not in str(refused.value)


def test_a_metric_of_a_class_of_ones_own_may_be_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mycallback.py").write_text("from lightning.pytorch import Callback\nclass Own(Callback): ...\n")
    options = ["--config", str(ROOT / "configs" / "digits.yaml")]
    assert "must be one of val/loss" in str(refusal([options], "val/own", "maximize"))
    assert refusal([[*options, "--trainer.callbacks=mycallback.Own"]], "val/own", "maximize") is None


def test_a_grid_is_gone_through_in_order(change) -> None:
    sweep = change(
        method="grid", parameters={"a": {"values": [None, "x"]}, "b": {"min": 1, "max": 2}, "c": {"value": 3}}
    )
    drawn = [draw(sweep, number, 1, []) for number in range(1, 6)]
    assert [tuple(values.values()) for values in drawn if values] == [
        (None, 1, 3),
        (None, 2, 3),
        ("x", 1, 3),
        ("x", 2, 3),
    ]
    assert drawn[4] is None


def test_random_trials_depend_on_the_seed_and_their_number_alone(change) -> None:
    sweep = change()
    first = [draw(sweep, number, 1, []) for number in range(1, 6)]
    assert first == [draw(sweep, number, 1, [{"values": {}, "score": 1.0}]) for number in range(1, 6)]
    assert len({json.dumps(values) for values in first}) == 5
    assert first != [draw(sweep, number, 2, []) for number in range(1, 6)]


def past_of(sweep: Sweep, count: int, objective: Any, seed: int = 1) -> list[dict[str, Any]]:
    past: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        values = draw(sweep, number, seed, past)
        assert values is not None
        past.append({"values": values, "score": objective(values)})
    return past


SPACE = {
    "lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0},
    "net": {"values": ["a", None, ["b", "c"]]},
    "layers": {"min": 1, "max": 8},
    "drop": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1},
}


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_tpe_is_told_what_was_reached(goal: str, change) -> None:
    sweep = change(method="bayes", parameters=SPACE, metric={"name": "val/x", "goal": goal})
    sign = 1 if goal == "maximize" else -1
    past = past_of(sweep, 40, lambda values: sign * ((values["net"] is None) - abs(values["layers"] - 6)))
    late = past[20:]
    assert sum(trial["values"]["net"] is None for trial in late) > 12  # 7 of 20 by chance
    assert sum(trial["values"]["layers"] in (5, 6, 7) for trial in late) > 12  # 8 by chance
    for trial in past:
        for key, value in trial["values"].items():
            choices = sweep.parameters[key].choices
            assert value in choices if choices else 1e-4 <= value <= 1


def test_tpe_draws_the_same_trials_again_and_others_after_other_results(change) -> None:
    sweep = change(method="bayes", parameters=SPACE)
    past = past_of(sweep, 12, lambda values: values["lr"])
    stored = json.loads(json.dumps(past))
    assert [draw(sweep, number, 1, stored[: number - 1]) for number in range(1, 13)] == [one["values"] for one in past]
    other = [{**trial, "score": -trial["score"]} for trial in past]
    assert draw(sweep, 13, 1, past) != draw(sweep, 13, 1, other)
    failed = [{**trial, "score": None} if number % 2 else trial for number, trial in enumerate(past)]
    assert draw(sweep, 13, 1, failed)


def test_without_optuna_only_bayes_is_refused(change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert draw(change(), 1, 1, [])
    with pytest.raises(RunError, match=r"pip install 'resnet18\[sweep\]'"):
        draw(change(method="bayes"), 1, 1, [])
