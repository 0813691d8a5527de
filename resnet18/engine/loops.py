"""Lightning's loops and their counters: where a Trainer is in a run, and what it needs to resume exactly."""

import copy
import math
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from resnet18.errors import RunError


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All of a Trainer's callbacks, in the order in which they are called."""
    return trainer.callbacks  # type: ignore[attr-defined]  # set by a connector, as others below


def is_dry_run(trainer: Trainer) -> bool:
    """Whether ``fast_dev_run`` is on: nothing is logged or saved then."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


# Where a run is


def batches_done(trainer: Trainer) -> int:
    """Training batches that the whole run has used: a different number for every batch."""
    # `ready` would count the batch that an interrupt cut short.
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]


def position(trainer: Trainer) -> tuple[int, int]:
    """The epoch, and how many of its batches have been used."""
    # Not computed from batches_done: earlier epochs may have had other numbers of batches.
    return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore


def is_between_steps(trainer: Trainer) -> bool:
    """Whether the batch has ended an optimizer step, with no gradients left to accumulate."""
    return not trainer.fit_loop._should_accumulate()


def at_last_batch(trainer: Trainer) -> bool:
    """Whether the batch is the epoch's last."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def can_resume_here(trainer: Trainer) -> bool:
    """Whether a run that is saved after this batch resumes exactly."""
    # A checkpoint holds no gradients; Lightning would skip a validation that is due now; and at an epoch's end a
    # ReduceLROnPlateau has yet to see its metric.
    loop: Any = trainer.fit_loop
    validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return is_between_steps(trainer) and not at_last_batch(trainer) and not validates


def ends_before_its_epoch(trainer: Trainer) -> bool:
    """Whether the run ends after this batch, by ``max_steps``, ``max_time`` or a callback, in mid-epoch."""
    loop = trainer.fit_loop
    stops = trainer.global_step == loop.max_steps or (trainer.should_stop and loop._can_stop_early)
    return stops and not at_last_batch(trainer)


def at_log_point(trainer: Trainer, step: int) -> bool:
    """Whether to log after the batch: every ``log_every_n_steps``, and at the end of an epoch of fewer steps."""
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if every == 0:
        return False
    if trainer.num_training_batches <= (every - 1) * trainer.accumulate_grad_batches:  # fewer than `every` steps
        return at_last_batch(trainer)
    return step % every == 0 and is_between_steps(trainer)


# What a checkpoint keeps of it


def loop_state(trainer: Trainer) -> dict[str, Any]:
    """The Trainer's counters as a checkpoint keeps them, in a copy."""
    return copy.deepcopy(trainer.fit_loop.state_dict())


def rewind_validation(counters: dict[str, Any]) -> None:
    """Sets counters back from the middle of a validation to its start."""
    # Lightning runs a validation again if its first batch was begun but not done; from a later batch it would resume
    # in the middle, without the sums of the batches before.
    for count in counters["epoch_loop.val_loop.batch_progress"].values():
        if isinstance(count, dict):
            count.update(ready=1, started=1, processed=0, completed=0)


def rewind_step(counters: dict[str, Any], batches_since: int) -> None:
    """Sets counters back to the end of the previous optimizer step, ``batches_since`` whole batches ago."""
    batches = counters["epoch_loop.batch_progress"]
    optimizer = counters["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    batches["is_last_batch"] = False
    for which in ("total", "current"):
        steps, zeroed = optimizer["step"][which], optimizer["zero_grad"][which]
        batches[which].update(dict.fromkeys(batches[which], batches[which]["completed"] - batches_since))
        zeroed.update(dict.fromkeys(zeroed, steps["completed"]))
        steps["ready"] = steps["completed"]


def batches_into_epoch(checkpoint: dict[str, Any]) -> int:
    """The batches that a checkpoint (which may be empty) has used of an unfinished epoch."""
    counters = checkpoint["loops"]["fit_loop"] if checkpoint else None
    if counters is None or _between_epochs(counters):
        return 0
    return counters["epoch_loop.batch_progress"]["current"]["processed"]


def _between_epochs(counters: dict[str, Any]) -> bool:
    epochs = counters["epoch_progress"]["current"]
    return epochs["processed"] == epochs["ready"]


# Resuming


def refuse_other_batches(done: int, then: dict[str, int], now: dict[str, int]) -> None:
    """RunError if an unfinished epoch had another number of ``batches`` or ``images`` than now."""
    # It would train on images twice, and leave others out. Old checkpoints know nothing: ``then`` is empty.
    if then and then != now and 0 < done < then["batches"]:
        raise RunError(
            f"the checkpoint has {done} of an epoch's {then['batches']} batches of {then['images']} images behind it, "
            f"and an epoch has {now['batches']} of {now['images']} here: to finish it keep trainer.devices, "
            "trainer.num_nodes, trainer.limit_train_batches and data.batch_size; they may change between epochs"
        )


def resume_between_epochs(trainer: Trainer) -> None:
    """Resumes a run that was saved after an epoch's last batch from there, however long its epochs are now."""
    loop: Any = trainer.fit_loop
    epochs, batches = loop.epoch_progress, loop.epoch_loop.batch_progress
    if epochs.current.processed == epochs.current.ready:
        # With max_steps Lightning would enter the finished epoch again, train nothing, and count one epoch more.
        epochs.current.completed, epochs.total.completed = epochs.current.processed, epochs.total.processed
        loop._restarting = loop.epoch_loop.restarting = False  # the loop's own setter leaves it on
        loop.reset_restart_stage()
    elif loop.epoch_loop.val_loop.restarted_mid_evaluation and batches.is_last_batch:
        # It would validate after the last of as many batches as an epoch has now.
        batches.current.__dict__.update(dict.fromkeys(vars(batches.current), trainer.num_training_batches))


def step_plateaus_after_resuming(trainer: Trainer) -> None:
    """Lets a ReduceLROnPlateau step at the end of the epoch in which a run resumes."""
    # Lightning skips it, as the metric might be missing; it is there if the epoch has validated.
    watched = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    if watched and watched <= trainer.callback_metrics.keys():
        trainer.fit_loop._restarting = False


def start_epoch(trainer: Trainer) -> None:
    """Sets how many batches a step takes in an epoch that is resumed in its middle: Lightning does not start it."""
    if (schedule := _accumulation(trainer)) is not None:
        schedule.on_train_epoch_start(trainer)


def skip_sigterm_broadcast(trainer: Trainer) -> None:
    """Keeps the ranks from exchanging Lightning's SIGTERM flag, which waits for the device in every step."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


# How long a run is


def limited_batches(trainer: Trainer, batches: int) -> int:
    """Batches of an epoch within ``limit_train_batches``, before the Trainer knows its data."""
    limit: Any = trainer.limit_train_batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def planned_steps(trainer: Trainer, batches: int, first: int = 0, before: int = 0) -> float:
    """Optimizer steps of a run, maybe infinite; one that resumes has made ``before`` of them before epoch ``first``."""
    steps, epochs = math.inf, trainer.max_epochs
    if epochs not in (None, -1):
        # Trainer.estimated_stepping_batches ignores a GradientAccumulationScheduler.
        schedule = _accumulation(trainer)
        per_step = schedule.get_accumulate_grad_batches if schedule else lambda _: trainer.accumulate_grad_batches
        steps = before + sum(math.ceil(batches / per_step(epoch)) for epoch in range(first, epochs))
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def total_steps(trainer: Trainer) -> float:
    """The same from within ``configure_optimizers``, when Lightning has not restored a checkpoint's counters yet."""
    estimated = trainer.estimated_stepping_batches  # sets the data up
    if math.isinf(trainer.num_training_batches):
        return estimated
    first = before = 0
    if checkpoint := trainer._checkpoint_connector._loaded_checkpoint:
        loops = checkpoint["loops"]["fit_loop"]
        made = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        first, before = loops["epoch_progress"]["current"]["processed"], made["total"]["completed"]
        if not _between_epochs(loops):
            before -= made["current"]["completed"]
    return planned_steps(trainer, int(trainer.num_training_batches), first, before)


def _accumulation(trainer: Trainer) -> GradientAccumulationScheduler | None:
    return next((one for one in callbacks_of(trainer) if isinstance(one, GradientAccumulationScheduler)), None)
