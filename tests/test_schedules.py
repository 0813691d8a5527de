import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CONFIG
from torch import nn
from torch.optim import SGD

from resnet18.schedules import OneCycle, StepSchedule, Triangular, WarmupCosine

SCHEDULES = [WarmupCosine, Triangular, OneCycle]
RATE = 0.4


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (RATE,)])


def advance(schedule: StepSchedule, steps: int) -> list[float]:
    """The learning rates of this many optimizer steps."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


# Of 19 steps, step k trains at the share (k + 1) / 20: the peak of 0.2 is step 3, and 0.6, half-way down, step 11.
@pytest.mark.parametrize(
    ("kind", "settings", "factors"),
    [
        (WarmupCosine, {"warmup": 0.2, "final": 0.1}, {0: 0.25, 1: 0.5, 3: 1.0, 11: 0.55, 19: 0.1}),
        (
            WarmupCosine,
            {"warmup": 0.2},
            {0: 0.25, 3: 1.0, 7: 0.8535533905932737, 11: 0.5, 15: 0.1464466094067262, 19: 0},
        ),
        (WarmupCosine, {"warmup": 0.0}, {0: 0.9938441702975689, 9: 0.5, 18: 0.0061558297024311, 19: 0.0}),
        (WarmupCosine, {}, {0: 1.0, 19: 0.0}),
        (Triangular, {"peak": 0.2, "initial": 0.1, "final": 0.04}, {0: 0.325, 1: 0.55, 3: 1.0, 11: 0.52, 19: 0.04}),
        (Triangular, {}, {0: 0.25, 3: 1.0, 7: 0.75, 11: 0.5, 18: 0.0625, 19: 0.0}),
        (Triangular, {"peak": 0.0, "initial": 5.0}, {0: 0.95, 9: 0.5, 19: 0.0}),
        (
            OneCycle,
            {"peak": 0.2, "initial": 0.1, "final": 0.04},
            {0: 0.2318019484660536, 1: 0.55, 3: 1.0, 11: 0.52, 19: 0.04},
        ),
        (OneCycle, {}, {2: 0.52, 5: 1.0, 12: 0.5, 19: 0.0}),
        (OneCycle, {"peak": 0.0}, {9: 0.5, 19: 0.0}),
    ],
)
def test_the_factors_are_those_computed_by_hand(
    kind: Callable[..., StepSchedule], settings: dict[str, Any], factors: dict[int, float]
) -> None:
    rates = advance(kind(optimizer(), total_steps=19, **settings), 20)
    assert {step: rates[step] / RATE for step in factors} == pytest.approx(factors, abs=1e-12)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 50])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_step_of_the_run_has_a_rate_and_only_what_follows_has_the_final_one(
    kind: Callable[..., StepSchedule], total_steps: int
) -> None:
    rates = advance(kind(optimizer(), total_steps=total_steps), total_steps + 3)
    assert all(0 < rate <= RATE for rate in rates[:total_steps])
    assert rates[total_steps:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_rate_rises_to_one_peak_and_falls(kind: Callable[..., StepSchedule]) -> None:
    rates = advance(kind(optimizer(), total_steps=99), 100)
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(RATE, abs=1e-12)
    assert peak > 1
    assert all(rates[step] < rates[step + 1] for step in range(peak))
    assert all(rates[step] > rates[step + 1] for step in range(peak, 99))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_parameter_groups_keep_the_ratio_of_their_rates(kind: Callable[..., StepSchedule]) -> None:
    schedule = kind(optimizer(0.4, 0.1), total_steps=9)
    for _ in range(8):
        first, second = (group["lr"] for group in schedule.optimizer.param_groups)
        assert first == pytest.approx(4 * second)
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("done", [1, 7, 18])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_saved_schedule_resumes_as_if_never_interrupted(kind: Callable[..., StepSchedule], done: int) -> None:
    unbroken = advance(kind(optimizer(), total_steps=19), 20)
    schedule = kind(optimizer(), total_steps=19)
    advance(schedule, done)
    saved = io.BytesIO()
    torch.save([schedule.optimizer.state_dict(), schedule.state_dict()], saved)
    saved.seek(0)
    resumed = kind(optimizer(), total_steps=19)
    for part, state in zip((resumed.optimizer, resumed), torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert advance(resumed, 20 - done) == unbroken[done:]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("warmup", share) for share in (-0.1, 1.0, "nan", "null")),
        *(("final", factor) for factor in (-0.1, "nan", "inf")),
        *((name, "-1") for name in ("peak", "initial")),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_key(option: str, value: object, lightning) -> None:
    kind = () if option in ("warmup", "final") else ("--model.schedule", "OneCycle")
    done = lightning("fit", "--config", CONFIG, *kind, f"--model.schedule.{option}", value)
    assert (done.status, f"model.schedule.{option}: " in done.err) == (2, True), done.err


@pytest.mark.parametrize("given", [{}, {"total_steps": None}, {"total_steps": 0}, {"total_steps": -3}])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_missing_or_empty_length_is_refused(kind: Callable[..., StepSchedule], given: dict[str, int | None]) -> None:
    with pytest.raises(ValueError, match=f"total_steps must be given and at least 1, not {given.get('total_steps')}"):
        kind(optimizer(), **given)
