"""The loops beside the Trainer's: one that only pulls batches, and the bare one, which one would write by hand.

They run where the Trainer would begin its own, so that all have the same loader, device, optimizer and schedule.
"""

import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from resnet18.callbacks.interrupt import Interrupted
from resnet18.measuring.clock import Clock

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
TRUE = ("32-true", "16-true", "bf16-true", "64-true")  # the module itself has been converted

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What a training loop does around the forward and the backward pass."""

    precision: str = "32-true"
    """As the Trainer names it."""
    accumulate: int = 1
    """Batches whose gradients are summed for one step of the optimizer."""
    clip: float | None = None
    """Largest norm of the gradient, or largest value in it."""
    clip_by: str = "norm"
    """Which of the two: ``norm`` or ``value``."""


def to_device(batch: Iterable[Tensor], device: torch.device) -> Batch:
    """Images and labels on the device; those of a resident feed are there."""
    images, labels = (part.to(device, non_blocking=True) for part in batch)
    return images, labels


def train(
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    passes: Iterator[Iterable[Batch]],
    batches: int,
    recipe: Recipe,
    device: torch.device,
    clock: Clock,
    *,
    each_step: Callable[[], None] = lambda: None,
    each_pass: Callable[[], None] = lambda: None,
) -> None:
    """The loop that one would write by hand.

    Args:
        loss: Of images and labels.
        optimizer: Over the parameters that are trained.
        passes: The epochs' loaders.
        batches: How many of a loader's batches make an epoch.
        recipe: Precision, accumulation, clipping.
        device: Where to.
        clock: Stopped by it.
        each_step: The schedule's step after each of the optimizer's.
        each_pass: The schedule's step after each epoch.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    half = HALF.get(recipe.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    for loader in passes:
        for number, batch in enumerate(itertools.islice(loader, batches), 1):
            images, labels = to_device(batch, device)
            with torch.autocast(device.type, half, enabled=half is not None):
                value = loss(images, labels)
            scaler.scale(value / recipe.accumulate).backward()
            if number % recipe.accumulate == 0 or number == batches:
                if recipe.clip:
                    scaler.unscale_(optimizer)
                    (clip_grad_value_ if recipe.clip_by == "value" else clip_grad_norm_)(parameters, recipe.clip)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                each_step()
            clock.step()
            if clock.done:
                return
        each_pass()


def passes(trainer: Trainer) -> Iterator[Iterable[Batch]]:
    """The Trainer's training loader, over and over; each pass is the epoch that its counter says."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    while True:
        yield trainer.train_dataloader  # type: ignore[misc]
        epochs.completed += 1


def recipe_of(trainer: Trainer) -> Recipe:
    """What a Trainer was told to do."""
    return Recipe(
        trainer.precision,
        trainer.accumulate_grad_batches,
        trainer.gradient_clip_val,  # type: ignore[attr-defined]
        trainer.gradient_clip_algorithm or "norm",  # type: ignore[attr-defined]
    )


def pull(trainer: Trainer, pl_module: LightningModule, clock: Clock) -> None:
    """The Trainer's batches brought to its device, and nothing done to them."""
    for batch in itertools.chain.from_iterable(passes(trainer)):
        to_device(batch, trainer.strategy.root_device)
        clock.step()
        if clock.done:
            return


def bare(trainer: Trainer, pl_module: LightningModule, clock: Clock) -> None:
    """The Trainer's work, its model, optimizer and schedule, in the loop of :func:`train`."""
    schedules: dict[str, Any] = {settings.interval: settings.scheduler for settings in trainer.lr_scheduler_configs}
    step: Callable[..., Any] = pl_module.training_step
    train(
        lambda images, labels: step((images, labels), 0),
        trainer.optimizers[0],
        passes(trainer),
        int(trainer.num_training_batches),
        recipe_of(trainer),
        trainer.strategy.root_device,
        clock,
        each_step=schedules["step"].step if "step" in schedules else lambda: None,
        each_pass=schedules["epoch"].step if "epoch" in schedules else lambda: None,
    )


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted where they meet the program: there is nothing to save."""

    def stop(signum: int, frame: Any) -> None:
        raise Interrupted(signum, None)

    previous = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Interrupted as stopped:
        # A run that saves on a signal has saved into a directory that is gone by now.
        raise Interrupted(stopped.signum, None) from None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
