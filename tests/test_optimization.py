"""Learning rates of their own for the head and the trunk, under every schedule, and in runs that are made longer."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, SMALL
from torch import nn
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from resnet18 import Classifier, resnet18
from resnet18.optimization import head_name, head_of, refresh_lr
from resnet18.schedules import OneCycle, Triangular, WarmupCosine


def network() -> nn.Sequential:
    layers = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 10))


def make(backbone: nn.Module, optimizer: Any = None, **settings: Any) -> Classifier:
    return Classifier(backbone, optimizer or partial(SGD, lr=0.4), num_classes=10, mean=[0.3], std=[0.4], **settings)


def groups(classifier: Classifier) -> list[tuple[float, float, list[str]]]:
    """Of each group: learning rate, weight decay, and the parameters' names."""
    names = {parameter: name for name, parameter in classifier.backbone.named_parameters()}
    return [
        (group["lr"], group["weight_decay"], [names[parameter] for parameter in group["params"]])
        for group in classifier.make_optimizer().param_groups
    ]


@pytest.mark.parametrize(
    ("backbone", "name"),
    [(network(), "5"), (resnet18(width=8), "fc"), (nn.Linear(4, 2), ""), (nn.Flatten(), "")],
)
def test_the_head_is_the_last_layer(backbone: nn.Module, name: str) -> None:
    assert head_name(backbone) == name
    assert head_of(backbone) is (backbone.get_submodule(name) if name else backbone)


def test_head_and_trunk_are_decayed_and_spared_each_at_its_own_rate() -> None:
    scaled = make(network(), partial(AdamW, lr=0.4, weight_decay=0.1), backbone_lr_scale=0.25)
    assert groups(scaled) == [
        (0.4, 0.1, ["5.weight"]),
        (0.4, 0.0, ["5.bias"]),
        (0.1, 0.1, ["0.weight"]),
        (0.1, 0.0, ["1.weight", "1.bias"]),
    ]


def test_without_decay_there_are_two_groups() -> None:
    assert groups(make(network(), backbone_lr_scale=2.0)) == [
        (0.4, 0, ["5.weight", "5.bias"]),
        (0.8, 0, ["0.weight", "1.weight", "1.bias"]),
    ]


def test_groups_without_parameters_are_left_out() -> None:
    backbone = network()
    backbone[5].bias.requires_grad_(False)
    backbone[1].requires_grad_(False)
    scaled = make(backbone, partial(SGD, lr=0.4, weight_decay=0.1), backbone_lr_scale=0.5)
    assert groups(scaled) == [(0.4, 0.1, ["5.weight"]), (0.2, 0.1, ["0.weight"])]


def test_at_a_scale_of_one_the_groups_are_those_without() -> None:
    for optimizer in (partial(SGD, lr=0.4), partial(SGD, lr=0.4, weight_decay=0.1)):
        same = groups(make(network(), optimizer, backbone_lr_scale=1.0))
        assert same == groups(make(network(), optimizer))
        assert {rate for rate, _, _ in same} == {0.4}
        assert len(same) == (2 if "weight_decay" in optimizer.keywords else 1)


@pytest.mark.parametrize("scale", ["0", "-0.5", "nan", "inf"])
def test_a_scale_that_is_not_above_0_is_refused_by_its_key(scale: str, lightning) -> None:
    done = lightning("fit", "--config", CONFIG, "--model.backbone_lr_scale", scale)
    assert done.status == 2
    assert done.err.startswith("lightning fit: model.backbone_lr_scale: ")


class NoRate(Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        pass


class WithoutGroups(SGD):
    def __init__(self, params: Any, lr: float) -> None:
        assert all(isinstance(one, nn.Parameter) for one in params)
        super().__init__(params, lr=lr)


def test_an_optimizer_that_takes_no_groups_gets_none_unless_it_decays() -> None:
    assert len(make(network(), partial(WithoutGroups, lr=0.1)).make_optimizer().param_groups) == 1


def test_an_optimizer_that_can_not_have_two_rates_says_so() -> None:
    with pytest.raises(ValueError, match="backbone_lr_scale must be 1: NoRate has no learning rate"):
        make(network(), NoRate, backbone_lr_scale=0.5).make_optimizer()
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        make(network(), LBFGS, backbone_lr_scale=0.5).make_optimizer()


@pytest.mark.parametrize(
    "schedule",
    [
        *(WarmupCosine, Triangular, OneCycle),
        partial(ExponentialLR, gamma=0.9),
        partial(LinearLR, start_factor=0.1),
        partial(CosineAnnealingLR, T_max=20),
        partial(OneCycleLR, max_lr=[0.4, 0.1]),
        partial(ReduceLROnPlateau, patience=0),
    ],
)
def test_a_schedule_scales_both_rates_alike(schedule: Any) -> None:
    classifier = make(network(), partial(SGD, lr=0.4, momentum=0.9), schedule=schedule, backbone_lr_scale=0.25)
    optimizer = classifier.make_optimizer()
    made: Any = classifier.make_schedule(optimizer, 20)
    heads = []
    for _ in range(20):
        head, trunk = (group["lr"] for group in optimizer.param_groups)
        assert trunk == pytest.approx(head / 4, abs=1e-7)
        heads.append(head)
        optimizer.step()
        made.step(1.0) if isinstance(made, ReduceLROnPlateau) else made.step()
    assert len(set(heads)) > 5


@pytest.mark.parametrize(
    "schedule",
    [partial(OneCycleLR, max_lr=0.1), partial(CyclicLR, base_lr=0.01, max_lr=0.1)],
)
def test_a_schedule_with_rates_of_its_own_is_refused(schedule: Callable[..., LRScheduler]) -> None:
    def both(scale: float) -> None:
        settings: dict[str, Any] = {"schedule": schedule, "backbone_lr_scale": scale}
        classifier = make(network(), partial(SGD, lr=0.4, momentum=0.9), **settings)
        classifier.make_schedule(classifier.make_optimizer(), 20)

    both(1.0)
    with pytest.raises(ValueError, match=r"backbone_lr_scale must be 1: .*LR sets every group's learning rate itself"):
        both(0.5)


def test_the_logged_rate_is_the_heads_and_a_wrong_schedule_ends_before_the_run(lightning, tmp_path: Path) -> None:
    fit = ("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "false")
    scaled = (*fit, "--model.backbone_lr_scale", "0.1", "--run_dir", "run")
    done = lightning(*scaled, "--model.schedule", "OneCycleLR", "--model.schedule.max_lr", "0.1")
    assert done.status == 2
    assert "model.backbone_lr_scale: backbone_lr_scale must be 1: OneCycleLR sets every group's" in done.err
    assert not (tmp_path / "run").exists()
    done = lightning(*scaled, "--model.optimizer.lr", "0.004", "--model.schedule", "null")
    assert done.status == 0, done.err
    rows = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    assert {float(row["lr"]) for row in rows if row["lr"]} == {0.004}
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    rates = [group["lr"] for group in content["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([0.004, 0.004, 0.0004, 0.0004])


def rates_by_hand(schedule: Callable[..., LRScheduler], steps: int) -> list[float]:
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=0.01)
    made, rates = schedule(optimizer, total_steps=steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return rates


FIT = (
    *("fit", "--config", CONFIG, "--model.backbone.width", "8", "--trainer.precision", "32-true"),
    *("--data.batch_size", "256", "--trainer.log_every_n_steps", "1", "--trainer.logger", "false"),
    *("--trainer.max_epochs", "1", "--run_dir", "run", "--model.optimizer.lr", "0.01"),
)
ONE_CYCLE = ("--model.schedule", "OneCycleLR", "--model.schedule.max_lr", "0.01")


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        (ONE_CYCLE, partial(OneCycleLR, max_lr=0.01)),
        (
            ("--model.schedule.warmup", "0.2", "--model.schedule.final", "0.1"),
            partial(WarmupCosine, final=0.1, warmup=0.2),
        ),
    ],
    ids=["OneCycleLR", "WarmupCosine"],
)
def test_in_a_run_made_longer_the_rate_follows_the_new_length(
    lightning, options: tuple[str, ...], schedule: Callable[..., LRScheduler]
) -> None:
    for arguments in ((*FIT, *options), ("fit", "--ckpt_path", "run", "--trainer.max_epochs", 2)):
        done = lightning(*arguments)
        assert done.status == 0, done.err
    with Path("run", "metrics.csv").open() as file:
        logged = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
    expected = [*rates_by_hand(schedule, 5), *rates_by_hand(schedule, 10)[5:]]
    assert logged == pytest.approx(expected, rel=1e-5)


def test_a_given_length_that_the_run_exceeds_and_a_run_without_an_end_are_refused(lightning) -> None:
    assert lightning(*FIT, *ONE_CYCLE, "--model.schedule.total_steps", "6").status == 0
    before = Path("run", "metrics.csv").read_text()
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", 2)
    assert done.status == 2
    assert "model.schedule: OneCycleLR is given 6 steps and the run has 10" in done.err
    assert Path("run", "metrics.csv").read_text() == before
    done = lightning(*FIT, "--run_dir", "endless", "--trainer.max_epochs", "-1")
    assert done.status == 2
    assert not Path("endless").exists()
    assert "takes its length from the run, and this one has no end: give trainer.max_epochs" in done.err


def test_refreshing_the_rates_changes_nothing_where_they_are_right() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)
    schedule = OneCycleLR(optimizer, max_lr=0.4, total_steps=9)
    for _ in range(4):
        optimizer.step()
        schedule.step()
        before = schedule.state_dict(), optimizer.state_dict()
        refresh_lr(schedule)
        assert (schedule.state_dict(), optimizer.state_dict()) == before
