"""Where in a run a Trainer is, from counters that a checkpoint restores.

Lightning keeps them in its loops and sets some of its attributes out of a type checker's sight; what this project needs
of that stands here, once.
"""

import copy
import math
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler


def batches_done(trainer: Trainer) -> int:
    """Training batches of the whole run that have been used.

    ``processed`` and not ``ready``, which already counts the batch that an interrupt cut short.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]


def at_log_point(trainer: Trainer, step: int) -> bool:
    """Whether the batch is the last one of so many optimizer steps, and these are to be logged after.

    An epoch of fewer steps is logged at its end. ``log_every_n_steps`` may be 0, for never. Where gradients are
    accumulated over batches, the last of them counts.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if every == 0:
        return False
    if trainer.num_training_batches <= (every - 1) * trainer.accumulate_grad_batches:  # fewer than `every` steps
        return at_last_batch(trainer)
    return step % every == 0 and not trainer.fit_loop._should_accumulate()


def at_last_batch(trainer: Trainer) -> bool:
    """Whether the epoch has no batch left after the current one."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def is_between_steps(trainer: Trainer) -> bool:
    """Whether the batch has ended an optimizer step: not one of several whose gradients are still being added up."""
    return not trainer.fit_loop._should_accumulate()


def validation_follows(trainer: Trainer) -> bool:
    """Whether the batch is followed by a validation."""
    loop: Any = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def ends_before_its_epoch(trainer: Trainer) -> bool:
    """Whether the run is to end after this batch, by ``max_steps``, ``max_time`` or a callback, in mid-epoch."""
    loop: Any = trainer.fit_loop
    stops = trainer.global_step == loop.max_steps or (trainer.should_stop and loop._can_stop_early)
    return stops and not at_last_batch(trainer)


def loop_state(trainer: Trainer) -> dict[str, Any]:
    """The Trainer's counters as a checkpoint keeps them, in a copy."""
    return copy.deepcopy(trainer.fit_loop.state_dict())


def before_validation(loops: dict[str, Any]) -> None:
    """Sets counters back from the middle of a validation to its start, from where it is run again as a whole.

    A Trainer that finds a validation's first batch begun and not done runs it on resuming. From any later batch it
    would go on in the middle, without the sums of those before.
    """
    for count in loops["epoch_loop.val_loop.batch_progress"].values():
        if isinstance(count, dict):
            count.update(ready=1, started=1, processed=0, completed=0)


def before_step(loops: dict[str, Any], batches_since: int) -> None:
    """Sets counters back from the middle of an optimizer step to the end of the one before.

    Args:
        loops: The counters.
        batches_since: How many batches have been used since then and added their gradients, the current one not
            counted.
    """
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for which in ("total", "current"):
        batches, steps, zeroed = loops["epoch_loop.batch_progress"], optimizer["step"][which], optimizer["zero_grad"]
        done = batches[which]["completed"] - batches_since
        batches[which].update(dict.fromkeys(batches[which], done))
        steps["ready"] = steps["completed"]
        zeroed[which].update(dict.fromkeys(zeroed[which], steps["completed"]))


def step_plateaus_after_resuming(trainer: Trainer) -> None:
    """Lets a ReduceLROnPlateau have its step at the end of the epoch in which a run goes on.

    Lightning leaves it out there, for the metric might be missing; where the epoch has validated it is not.
    """
    watched = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    if watched and watched <= trainer.callback_metrics.keys():
        trainer.fit_loop._restarting = False


def planned_steps(trainer: Trainer, batches: int) -> float:
    """How many optimizer steps a run will have, before the Trainer knows its data; infinite for one without an end.

    Args:
        trainer: As it is configured.
        batches: In an epoch of all images, on each rank.
    """
    limit: Any = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = trainer.max_epochs
    steps = math.inf if epochs in (None, -1) else steps_of_epochs(trainer, batches, range(epochs))
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def steps_of_epochs(trainer: Trainer, batches: int, epochs: range) -> int:
    """How many optimizer steps are made in some epochs of so many batches each.

    Lightning's ``estimated_stepping_batches`` knows nothing of a GradientAccumulationScheduler.
    """
    schedule = _accumulation(trainer)
    if schedule is None:
        return math.ceil(batches / trainer.accumulate_grad_batches) * len(epochs)
    return sum(math.ceil(batches / schedule.get_accumulate_grad_batches(epoch)) for epoch in epochs)


def estimated_steps(trainer: Trainer) -> float:
    """How many optimizer steps a run will have, once its data are set up; infinite for one without an end."""
    steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs  # sets them up
    if _accumulation(trainer) is None or epochs in (None, -1):
        return steps
    return min(steps, steps_of_epochs(trainer, int(trainer.num_training_batches), range(epochs)))


def start_epoch(trainer: Trainer) -> None:
    """Sets how many batches a step takes in the current epoch; one that is resumed in its middle has no start."""
    if (schedule := _accumulation(trainer)) is not None:
        schedule.on_train_epoch_start(trainer)


def _accumulation(trainer: Trainer) -> GradientAccumulationScheduler | None:
    return next((one for one in callbacks_of(trainer) if isinstance(one, GradientAccumulationScheduler)), None)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All of a Trainer's callbacks, in the order in which they are called."""
    return trainer.callbacks  # type: ignore[attr-defined]


def is_dry_run(trainer: Trainer) -> bool:
    """Whether ``fast_dev_run`` is on: nothing is logged or saved then."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
