"""Where in a run a Trainer is, from counters that a checkpoint restores.

Lightning keeps them in its loops and sets some of its attributes out of a type checker's sight; what this project reads
and sets of the loops stands here. What ends a run reaches into Lightning in :mod:`resnet18.engine.stopping`, what
watches processes in :mod:`resnet18.engine.ranks`.
"""

import copy
import math
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from resnet18.errors import RunError


def batches_done(trainer: Trainer) -> int:
    """Training batches of the whole run that have been used: a number of its own for every batch.

    ``processed`` and not ``ready``, which already counts the batch that an interrupt cut short.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]


def position(trainer: Trainer) -> tuple[int, int]:
    """The epoch, and how many of its batches have been used.

    Not worked out from :func:`batches_done`: the epochs before may have had other numbers of batches.
    """
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return trainer.current_epoch, current.processed


def batches_into_epoch(checkpoint: dict[str, Any]) -> int:
    """How many batches of an unfinished epoch a checkpoint has behind it; 0 where it has none, or is none."""
    if not checkpoint:
        return 0
    loops = checkpoint["loops"]["fit_loop"]
    epochs = loops["epoch_progress"]["current"]
    return 0 if epochs["processed"] == epochs["ready"] else loops["epoch_loop.batch_progress"]["current"]["processed"]


def refuse_other_batches(done: int, then: dict[str, int], now: dict[str, int]) -> None:
    """Sees to it that an epoch is finished in the batches that it was begun in; between epochs they may change.

    Args:
        done: How many of the epoch's batches have been used.
        then: How many ``batches`` an epoch had, of how many ``images``; empty where it is not known.
        now: Likewise.

    Raises:
        RunError: Where they differ: images would be trained on twice, and others left out.
    """
    if then and then != now and 0 < done < then["batches"]:
        raise RunError(
            f"the checkpoint has {done} of an epoch's {then['batches']} batches of {then['images']} images behind it, "
            f"and an epoch has {now['batches']} of {now['images']} here: to finish it keep trainer.devices, "
            "trainer.num_nodes, trainer.limit_train_batches and data.batch_size; they may change between epochs"
        )


def resume_between_epochs(trainer: Trainer) -> None:
    """Lets a run that was saved when an epoch's batches were used up go on from there, whatever it runs on now.

    Where ``max_steps`` is set, Lightning enters a finished epoch again, trains nothing in it and counts one epoch more.
    And it validates after the last of as many batches as an epoch has now, which the saved one need not have had.
    """
    loop: Any = trainer.fit_loop
    epochs, batches = loop.epoch_progress, loop.epoch_loop.batch_progress
    if epochs.current.processed == epochs.current.ready:
        epochs.current.completed, epochs.total.completed = epochs.current.processed, epochs.total.processed
        loop._restarting = loop.epoch_loop.restarting = False  # the loop's own setter leaves it on
        loop.reset_restart_stage()
    elif loop.epoch_loop.val_loop.restarted_mid_evaluation and batches.is_last_batch:
        batches.current.__dict__.update(dict.fromkeys(vars(batches.current), trainer.num_training_batches))


def total_steps(trainer: Trainer) -> float:
    """How many optimizer steps a run will have had at its end; infinite for one without an end.

    Meant for ``configure_optimizers``, when the counters of a checkpoint that it goes on from are not restored yet. The
    epochs that they count may have had other numbers of batches than an epoch has now.
    """
    planned, last = trainer.estimated_stepping_batches, trainer.max_epochs  # sets the data up
    loops = (trainer._checkpoint_connector._loaded_checkpoint or {}).get("loops", {}).get("fit_loop")
    if last in (None, -1) or math.isinf(trainer.num_training_batches):
        return planned
    first = before = 0
    if loops is not None:
        epochs = loops["epoch_progress"]["current"]
        made = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        first, before = epochs["processed"], made["total"]["completed"]  # in whole epochs
        if epochs["processed"] != epochs["ready"]:
            before -= made["current"]["completed"]
    steps = before + steps_of_epochs(trainer, int(trainer.num_training_batches), range(first, last))
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


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
        batches["is_last_batch"] = False
        zeroed[which].update(dict.fromkeys(zeroed[which], steps["completed"]))


def step_plateaus_after_resuming(trainer: Trainer) -> None:
    """Lets a ReduceLROnPlateau have its step at the end of the epoch in which a run goes on.

    Lightning leaves it out there, for the metric might be missing; where the epoch has validated it is not.
    """
    watched = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    if watched and watched <= trainer.callback_metrics.keys():
        trainer.fit_loop._restarting = False


def limited_batches(trainer: Trainer, batches: int) -> int:
    """How many batches an epoch has, before the Trainer knows its data.

    Args:
        trainer: As it is configured.
        batches: In an epoch of all images, on each rank.
    """
    limit: Any = trainer.limit_train_batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def planned_steps(trainer: Trainer, batches: int) -> float:
    """Likewise how many optimizer steps a run has; infinite for one without an end."""
    batches, epochs = limited_batches(trainer, batches), trainer.max_epochs
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
