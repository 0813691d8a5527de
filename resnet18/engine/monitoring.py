"""Checks that every metric that a callback or a schedule watches has been logged."""

from collections.abc import Collection

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from resnet18.errors import RunError, hint


def check_watched(trainer: Trainer, own: Collection[str]) -> None:
    """RunError at a validation's end if a watched ``val/`` metric is missing; ``own`` are the module's metrics."""
    # Lightning would raise several kinds of errors, each with a traceback.
    if trainer.state.fn != TrainerFn.FITTING:
        return
    watchers = [one for one in trainer.callbacks if getattr(one, "strict", True)]  # type: ignore[attr-defined]
    watchers += [one for one in trainer.lr_scheduler_configs if one.reduce_on_plateau and one.strict]
    there = {*own, *trainer.callback_metrics}
    for watcher in watchers:
        name = getattr(watcher, "monitor", None) or ""
        if name.startswith("val/") and name not in there:
            logged = sorted(one for one in trainer.callback_metrics if one.startswith("val/"))
            who, more = type(getattr(watcher, "scheduler", watcher)).__name__, f"; there are {', '.join(logged)}"
            raise RunError(
                f"{who} watches {name}, which nothing has logged in the validation{hint(name, logged) or more}"
            )
