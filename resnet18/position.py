"""Where in a run a Trainer is, from counters that a checkpoint restores.

Lightning keeps them in its loops and sets some of its attributes out of a type checker's sight; what this project needs
of that stands here, once.
"""

from lightning.pytorch import Trainer


def batches_done(trainer: Trainer) -> int:
    """Training batches of the whole run that have been used.

    ``processed`` and not ``ready``, which already counts the batch that an interrupt cut short.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]


def at_log_point(trainer: Trainer, step: int) -> bool:
    """Whether the batch is the last one of so many optimizer steps, and these are to be logged after.

    ``log_every_n_steps`` may be 0, for never. Where gradients are accumulated over batches, the last of them counts.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0 and not trainer.fit_loop._should_accumulate()


def at_last_batch(trainer: Trainer) -> bool:
    """Whether the epoch has no batch left after the current one."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def is_dry_run(trainer: Trainer) -> bool:
    """Whether ``fast_dev_run`` is on: nothing is logged or saved then."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
