"""Learning-rate schedules that step once per optimizer step; their length is the Trainer's.

Each is a torch scheduler and multiplies the optimizer's own learning rate. ``total_steps`` is filled in by
:class:`~resnet18.classifier.Classifier` from ``trainer.estimated_stepping_batches``; warm-up and peak are given as
shares of it, so that one recipe fits any length.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class StepSchedule(LambdaLR):
    """Base of the schedules that need to know how many optimizer steps the run has.

    Args:
        optimizer: Its learning rates are what the schedule multiplies.
        total_steps: Optimizer steps in the run; None stands for the Trainer's number.
        shape: From the share of the run that is done, 0 to 1, to the factor.
    """

    interval = "step"

    def __init__(self, optimizer: Optimizer, total_steps: int | None, shape: Callable[[float], float]) -> None:
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be given and at least 1, not {total_steps}")
        steps = total_steps
        # Step k of n trains at the share (k + 1) / (n + 1): neither the first nor the last step has a rate of zero.
        super().__init__(optimizer, lambda step: shape(min((step + 1) / (steps + 1), 1.0)))


class WarmupCosine(StepSchedule):
    """Linear warm-up from zero, then half a cosine down (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983).

    Args:
        optimizer: See :class:`StepSchedule`.
        total_steps: See :class:`StepSchedule`.
        warmup: Share of the run that warms up.
        final: Factor at the end.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup: float = 0.05, final: float = 0.0
    ) -> None:
        _check_share("warmup", warmup)
        _check_factor("final", final)

        def shape(done: float) -> float:
            if done < warmup:
                return done / warmup
            return final + (1 - final) * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2

        super().__init__(optimizer, total_steps, shape)


class Triangular(StepSchedule):
    """Linear up to the peak, then linear down, as in the fast CIFAR-10 recipes (Page, 2018).

    Args:
        optimizer: See :class:`StepSchedule`.
        total_steps: See :class:`StepSchedule`.
        peak: Share of the run at which the factor is 1.
        initial: Factor at the start.
        final: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        peak: float = 0.2,
        initial: float = 0.0,
        final: float = 0.0,
    ) -> None:
        _check_share("peak", peak)
        _check_factor("initial", initial)
        _check_factor("final", final)

        def shape(done: float) -> float:
            if done < peak:
                return initial + (1 - initial) * done / peak
            return 1 + (final - 1) * (done - peak) / (1 - peak)

        super().__init__(optimizer, total_steps, shape)


class OneCycle(StepSchedule):
    """Half a cosine up to the peak and half a cosine down (Smith and Topin, https://arxiv.org/abs/1708.07120).

    Unlike torch's ``OneCycleLR``, the peak is the optimizer's learning rate and the momentum stays as it is.

    Args:
        optimizer: See :class:`StepSchedule`.
        total_steps: See :class:`StepSchedule`.
        peak: Share of the run at which the factor is 1.
        initial: Factor at the start.
        final: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        peak: float = 0.3,
        initial: float = 0.04,
        final: float = 0.0,
    ) -> None:
        _check_share("peak", peak)
        _check_factor("initial", initial)
        _check_factor("final", final)

        def between(start: float, end: float, share: float) -> float:
            return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

        def shape(done: float) -> float:
            return between(initial, 1, done / peak) if done < peak else between(1, final, (done - peak) / (1 - peak))

        super().__init__(optimizer, total_steps, shape)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name} is a share of the run, at least 0 and below 1, not {share}")


def _check_factor(name: str, factor: float) -> None:
    if not 0 <= factor < math.inf:
        raise ValueError(f"{name} is a factor of the learning rate, at least 0 and finite, not {factor}")
