"""Learning-rate schedules that step once per optimizer step and last as long as the run.

Each is a torch scheduler that multiplies the optimizer's learning rate by a factor, at most 1. Warm-up and peak are
shares of the run, so that one recipe fits any length. A schedule of your own: a subclass with another ``factor``.
"""

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Steps = int | None  # optimizer steps in the run; None is filled in by optimization.make_schedule
Share = Annotated[float, Field(ge=0, lt=1)]  # of the run
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of the optimizer's learning rate


class StepSchedule(LambdaLR):
    """The base: ``factor`` takes the share of the run that is done, 0 to 1."""

    interval = "step"  # Lightning's default is "epoch"

    def __init__(self, optimizer: Optimizer, total_steps: Steps, factor: Callable[[float], float]) -> None:
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be given and at least 1, not {total_steps}")
        # Step k of n trains at the share (k + 1) / (n + 1): neither the first nor the last step has a rate of zero.
        super().__init__(optimizer, lambda step: factor(min((step + 1) / (total_steps + 1), 1.0)))


class WarmupCosine(StepSchedule):
    """Linear warm-up from zero, then half a cosine down (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983).

    Args:
        warmup: Share of the run that warms up.
        final: Factor at the end.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: Steps = None, warmup: Share = 0.05, final: Factor = 0.0
    ) -> None:
        def factor(done: float) -> float:
            if done < warmup:
                return done / warmup
            return final + (1 - final) * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2

        super().__init__(optimizer, total_steps, factor)


class Triangular(StepSchedule):
    """Linear up to the peak, then linear down, as in the fast CIFAR-10 recipes (Page, 2018).

    Args:
        peak: Share of the run at which the factor is 1.
        initial: Factor at the start.
        final: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Steps = None,
        peak: Share = 0.2,
        initial: Factor = 0.0,
        final: Factor = 0.0,
    ) -> None:
        def factor(done: float) -> float:
            if done < peak:
                return initial + (1 - initial) * done / peak
            return 1 + (final - 1) * (done - peak) / (1 - peak)

        super().__init__(optimizer, total_steps, factor)


class OneCycle(StepSchedule):
    """Half a cosine up to the peak and half a cosine down (Smith and Topin, https://arxiv.org/abs/1708.07120).

    Unlike torch's ``OneCycleLR``, the peak is the optimizer's learning rate and the momentum stays as it is.

    Args:
        peak: Share of the run at which the factor is 1.
        initial: Factor at the start.
        final: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Steps = None,
        peak: Share = 0.3,
        initial: Factor = 0.04,
        final: Factor = 0.0,
    ) -> None:
        def between(start: float, end: float, share: float) -> float:
            return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

        def factor(done: float) -> float:
            return between(initial, 1, done / peak) if done < peak else between(1, final, (done - peak) / (1 - peak))

        super().__init__(optimizer, total_steps, factor)
