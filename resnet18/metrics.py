"""What is measured: the mean loss beside torchmetrics' own scores, and which way each gets better."""

from collections.abc import Collection
from typing import Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from resnet18.errors import RunError, hint

Mode = Literal["max", "min"]
"""Whether more of a metric is better, or less."""


class MeanLoss(Metric):
    """Mean over images, whatever the batches and ranks they came in.

    torchmetrics' MeanMetric waits for the device at every update to look for NaNs; told not to, version 1.9 drops its
    weights too, and a small last batch or rank counts as much as a full one.
    """

    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Adds a batch: the sum of its losses and its number of images."""
        self.total = self.total + total  # not in place: a 16-bit precision has made the zero one of 16 bits
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


def mode_of(metric: Metric) -> Mode | None:
    """Which way a metric gets better, as its class says; None where it doesn't say."""
    return {True: "max", False: "min"}.get(metric.higher_is_better)  # type: ignore[return-value, arg-type]


def written(name: str, value: float) -> str:
    """A value as it is printed: top-k as a share, in %, all else with four decimals, or four digits from 1,000 on."""
    if name.rpartition("/")[2].startswith("top"):
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def check_watched(trainer: Trainer, own: Collection[str]) -> None:
    """Looks for every ``val/`` metric that a run watches, at a validation's end, once all callbacks have logged.

    Args:
        trainer: Whose callbacks and schedules watch.
        own: The metrics that the module logs itself, which are there.

    Raises:
        RunError: Where one is missing; Lightning would raise several kinds of errors, each with a traceback.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    watchers = [one for one in trainer.callbacks if getattr(one, "strict", True)]  # type: ignore[attr-defined]
    watchers += [one for one in trainer.lr_scheduler_configs if one.reduce_on_plateau and one.strict]
    for watcher in watchers:
        name = getattr(watcher, "monitor", None) or ""
        if name.startswith("val/") and name not in own and name not in trainer.callback_metrics:
            logged = sorted(one for one in trainer.callback_metrics if one.startswith("val/"))
            who, more = type(getattr(watcher, "scheduler", watcher)).__name__, f"; there are {', '.join(logged)}"
            raise RunError(
                f"{who} watches {name}, which nothing has logged in the validation{hint(name, logged) or more}"
            )
