"""From an optimizer and a schedule named in a configuration to the ones that train.

Weight decay is kept off norm layers and biases; a schedule gets the run's length, and steps as often as it counts.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from resnet18.errors import UsageError, counted

OptimizerCallable = Callable[[Iterable], Optimizer]
ScheduleCallable = Callable[[Optimizer], LRScheduler]
Interval = Literal["step", "epoch"]
Groups = list[dict[str, Any]]

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decay_groups(module: nn.Module) -> Groups:
    """The trainable parameters in two groups: decayed weights, and norm layers and biases, which are not decayed.

    So did Goyal et al., https://arxiv.org/abs/1706.02677, and Jia et al., https://arxiv.org/abs/1807.11205.
    """
    norms = {parameter for part in module.modules() if isinstance(part, NORMS) for parameter in part.parameters()}
    decayed, spared = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim < 2 or name.endswith(".bias") or parameter in norms
            (spared if spare else decayed).append(parameter)
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def trunk_groups(groups: Groups, head: nn.Module, trunk_lr: float) -> Groups:
    """Each group split in two, without empty ones: the head's first, then the rest with a learning rate of its own."""
    own = set(head.parameters())
    heads, trunks = [], []
    for group in groups:
        heads.append({**group, "params": [one for one in group["params"] if one in own]})
        trunks.append(
            {**group, "params": [one for one in group["params"] if one not in own], "lr": trunk_lr, "name": "backbone"}
        )
    return [group for group in heads + trunks if group["params"]]


def make_optimizer(
    make: OptimizerCallable, module: nn.Module, head: nn.Module | None = None, trunk_lr_scale: float = 1.0
) -> Optimizer:
    """The optimizer over a module's trainable parameters; in groups only where it decays weights or rates differ.

    With a ``head`` all other parameters learn at ``trunk_lr_scale`` times the optimizer's learning rate.

    Raises:
        ValueError: Where there is a head, and the optimizer has no learning rate.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = make(trainable)
    decays = optimizer.defaults.get("weight_decay")
    if head is None:  # not every optimizer takes groups
        return make(decay_groups(module)) if decays else optimizer
    if "lr" not in optimizer.defaults:
        raise ValueError(f"backbone_lr_scale must be 1: {type(optimizer).__name__} has no learning rate to scale")
    groups = decay_groups(module) if decays else [{"params": trainable}]
    return make(trunk_groups(groups, head, optimizer.defaults["lr"] * trunk_lr_scale))


def make_schedule(make: ScheduleCallable, optimizer: Optimizer, total_steps: float) -> LRScheduler:
    """The schedule over an optimizer; one that takes ``total_steps`` and was not given any gets the run's.

    Raises:
        UsageError: Where the run has no end.
        ValueError: Where the optimizer's groups have rates of their own and the schedule sets others.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    length: dict[str, Any] = {}
    if _wants_length(make):
        if not 0 < total_steps < math.inf:
            raise UsageError(
                "model.schedule takes its length from the run, and this one has no end: give trainer.max_epochs or "
                "trainer.max_steps, or the schedule its total_steps"
            )
        length = {"total_steps": int(total_steps)}
    schedule = make(optimizer, **length)
    if len(set(rates)) > 1:
        bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if not all(math.isclose(base * rates[0], bases[0] * rate) for base, rate in zip(bases, rates, strict=True)):
            raise ValueError(
                f"backbone_lr_scale must be 1: {type(schedule).__name__} sets every group's learning rate itself; else "
                "take a schedule that scales the optimizer's, such as those of resnet18.schedules"
            )
    return schedule


def _wants_length(make: Any) -> bool:
    given: dict[str, Any] = {}
    if isinstance(make, partial):  # of the class in Python; of (instantiator, class) from the command line
        given, make = make.keywords, make.args[-1] if make.args else make.func
    length_given = any(given.get(name) is not None for name in ("total_steps", "epochs"))
    return "total_steps" in inspect.signature(make).parameters and not length_given


def schedule_settings(schedule: LRScheduler, interval: Interval | None, total_steps: float) -> dict[str, Any]:
    """What Lightning has to know of a schedule.

    Raises:
        UsageError: For a ``OneCycleLR`` that was given fewer steps than the run has; torch would raise in mid-run.
    """
    if interval is None:  # as each counts
        own = "step" if isinstance(schedule, OneCycleLR | CyclicLR) else "epoch"
        interval = getattr(schedule, "interval", own)  # resnet18.schedules know theirs
    if isinstance(schedule, OneCycleLR) and interval == "step" and schedule.total_steps < total_steps:
        raise UsageError(
            f"model.schedule: OneCycleLR is given {counted(schedule.total_steps, 'step')} and the run has "
            f"{total_steps:,}; without a total_steps of its own it takes the run's"
        )
    settings = {"scheduler": schedule, "interval": interval}
    if isinstance(schedule, ReduceLROnPlateau):  # Lightning's own is torch's with a monitor
        settings["monitor"] = getattr(schedule, "monitor", "val/loss")
    return settings


def drop_total_steps(state: dict[str, Any]) -> None:
    """Takes a schedule's length out of its state dict: a run that is made longer has another."""
    for name in ("total_steps", "_schedule_phases"):  # of torch's OneCycleLR; this project's hold it in a function
        state.pop(name, None)


def refresh_lr(schedule: LRScheduler) -> None:
    """Sets the learning rates of the step that a restored schedule is at: the optimizer's were of the old length.

    Schedules that compute a rate from the one before, and know no length, are left alone.
    """
    if isinstance(schedule, LambdaLR | OneCycleLR) and schedule.last_epoch > 0:
        schedule.last_epoch -= 1
        schedule.step()
        schedule._step_count -= 1


def head_name(backbone: nn.Module) -> str:
    """The dotted name of the layer that holds the last entry of the state dict; empty for a network of one layer."""
    return next(reversed(backbone.state_dict()), "").rpartition(".")[0]


def head_of(backbone: nn.Module) -> nn.Module:
    """The layer of that name."""
    return backbone.get_submodule(head_name(backbone))
