"""From an optimizer and a schedule named in a configuration to the ones that train.

Weight decay is kept off norm layers and biases, and a schedule steps as often as it counts, by construction.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from resnet18.errors import UsageError, counted

OptimizerCallable = Callable[[Iterable], Optimizer]
ScheduleCallable = Callable[[Optimizer], LRScheduler]
Interval = Literal["step", "epoch"]

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: decayed weights, and norm layers and biases, which are not decayed.

    Goyal et al., https://arxiv.org/abs/1706.02677, and Jia et al., https://arxiv.org/abs/1807.11205, spare them so.
    """
    decayed: list[Tensor] = []
    spared: list[Tensor] = []
    norms = [part for part in module.modules() if isinstance(part, NORMS)]
    in_norms = {id(parameter) for norm in norms for parameter in norm.parameters()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim < 2 or name.endswith(".bias") or id(parameter) in in_norms
            (spared if spare else decayed).append(parameter)
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def trunk_groups(groups: Iterable[dict[str, Any]], head: nn.Module, trunk_lr: float) -> list[dict[str, Any]]:
    """Parameter groups, each split in two: the head's first, then those of everything else, with a rate of their own.

    Groups without parameters are left out.
    """
    own = set(head.parameters())
    heads = [{**group, "params": [one for one in group["params"] if one in own]} for group in groups]
    trunks = [{**group, "params": [one for one in group["params"] if one not in own]} for group in groups]
    trunks = [{**group, "lr": trunk_lr} for group in trunks]
    return [group for group in (*heads, *trunks) if group["params"]]


def make_optimizer(
    make: OptimizerCallable, module: nn.Module, head: nn.Module | None = None, trunk_lr_scale: float = 1.0
) -> Optimizer:
    """The optimizer over a module's trainable parameters; in groups only where it decays weights or rates differ.

    Args:
        make: Takes parameters or parameter groups.
        module: Whose parameters.
        head: The part of it that learns at the optimizer's own learning rate, where the rest does not; its groups
            come first.
        trunk_lr_scale: Factor of that rate for the rest.

    Raises:
        ValueError: Where the rate is to be scaled and the optimizer has none.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = make(trainable)
    decays = bool(optimizer.defaults.get("weight_decay"))
    if head is None:
        return make(decay_groups(module)) if decays else optimizer
    if "lr" not in optimizer.defaults:
        raise ValueError(f"backbone_lr_scale must be 1: {type(optimizer).__name__} has no learning rate to scale")
    groups = decay_groups(module) if decays else [{"params": trainable}]
    return make(trunk_groups(groups, head, optimizer.defaults["lr"] * trunk_lr_scale))


def make_schedule(make: ScheduleCallable, optimizer: Optimizer, total_steps: int | None) -> LRScheduler:
    """The schedule over an optimizer; one that takes ``total_steps`` and was not given its length gets it here.

    Args:
        make: Takes the optimizer.
        optimizer: Made of all groups.
        total_steps: Optimizer steps in the run; None for a run without an end.

    Raises:
        UsageError: Where the length is missing.
        ValueError: Where the optimizer's groups have rates of their own and the schedule sets others.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    schedule = _made_with_length(make, optimizer, total_steps)
    if len(set(rates)) > 1:
        bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if not all(math.isclose(base * rates[0], bases[0] * rate) for base, rate in zip(bases, rates, strict=True)):
            raise ValueError(
                f"backbone_lr_scale must be 1: {type(schedule).__name__} sets every group's learning rate itself; else "
                "take a schedule that scales the optimizer's, such as those of resnet18.schedules"
            )
    return schedule


def _made_with_length(make: ScheduleCallable, optimizer: Optimizer, total_steps: int | None) -> LRScheduler:
    given: dict[str, Any] = {}
    made: Any = make
    if isinstance(made, partial):
        # Python code hands over partial(class, …), the command line partial(instantiator, class, …).
        classes = [part for part in (*made.args, made.func) if isinstance(part, type)]
        given, made = made.keywords, classes[0] if classes else made.func
    length_given = any(given.get(name) is not None for name in ("total_steps", "epochs"))
    if "total_steps" in inspect.signature(made).parameters and not length_given:
        if total_steps is None:
            raise UsageError(
                "model.schedule takes its length from the run, and this one has no end: give trainer.max_epochs or "
                "trainer.max_steps, or the schedule its total_steps"
            )
        make_with_length: Callable[..., LRScheduler] = make
        return make_with_length(optimizer, total_steps=total_steps)
    return make(optimizer)


def schedule_settings(schedule: LRScheduler, interval: Interval | None) -> dict[str, Any]:
    """What Lightning wants to know of a schedule.

    Args:
        schedule: Any of torch's, or one of :mod:`resnet18.schedules`, which know their interval.
        interval: How often it steps; by default every optimizer step for this project's and for torch's ``OneCycleLR``
            and ``CyclicLR``, every epoch for torch's others, as each counts.
    """
    if interval is None:
        own = "step" if isinstance(schedule, OneCycleLR | CyclicLR) else "epoch"
        interval = getattr(schedule, "interval", own)
    # Lightning's own ReduceLROnPlateau is torch's with a monitor.
    plateau = isinstance(schedule, ReduceLROnPlateau)
    watched = {"monitor": getattr(schedule, "monitor", "val/loss")} if plateau else {}
    return {"scheduler": schedule, "interval": interval, **watched}


def check_length(settings: dict[str, Any], total_steps: float) -> None:
    """
    Args:
        settings: Of :func:`schedule_settings`.
        total_steps: Optimizer steps in the run.

    Raises:
        UsageError: For a ``OneCycleLR`` that was given fewer steps than the run has, where torch raises in mid-run.
    """
    schedule = settings["scheduler"]
    if isinstance(schedule, OneCycleLR) and settings["interval"] == "step" and schedule.total_steps < total_steps:
        raise UsageError(
            f"model.schedule: OneCycleLR is given {counted(schedule.total_steps, 'step')} and the run has "
            f"{total_steps:,}; without a total_steps of its own it takes the run's"
        )


def forget_length(state: dict[str, Any]) -> None:
    """Takes a schedule's length out of its state dict: a run that is made longer has another."""
    for name in ("total_steps", "_schedule_phases"):  # of torch's OneCycleLR; this project's hold it in a function
        state.pop(name, None)


def set_rates(schedule: LRScheduler) -> None:
    """Sets the rates of the step that a schedule is at, once it is loaded.

    An optimizer's state brings the rates back that were computed before, of the length that the run had then. Schedules
    that compute a rate from the one before, and know no length, are left alone.
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
