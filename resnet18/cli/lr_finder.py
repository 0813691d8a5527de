"""``--trainer.callbacks LearningRateFinder``: a range test before the run, which then starts with the rate found.

After Smith (https://arxiv.org/abs/1506.01186). Lightning's callback searches inside the run and sets an attribute of
the module, so ``config.yaml`` would not say what trained.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner

from resnet18.classifier import Classifier
from resnet18.cli.trainer_parts import as_list
from resnet18.data.base import ImageDataModule
from resnet18.errors import RunError, UsageError
from resnet18.storage.class_paths import import_object

NAME = LearningRateFinder.__name__
_TRIAL = {  # the finder sets the number of steps; nothing is logged, saved or validated
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False),
    **dict.fromkeys(("max_time", "min_epochs", "min_steps", "profiler", "val_check_interval"), None),
    **{"max_epochs": -1, "max_steps": -1, "limit_val_batches": 0},
}


def take_finder(trainer: Namespace) -> dict[str, Any] | None:
    """Removes the finder from a Trainer's configuration; returns its arguments, None without one."""
    callbacks = as_list(trainer.get("callbacks"))
    for callback in callbacks:
        if isinstance(callback, Namespace) and import_object(callback.class_path) is LearningRateFinder:
            trainer.callbacks = [one for one in callbacks if one is not callback] or None
            return dict(vars(callback.get("init_args") or Namespace()))
    return None


def check_search(model: Classifier, world_size: int, resumes: bool) -> None:
    """Refuses a search whose rate the run could not use, with what to do instead."""
    optimizer = model.make_optimizer()
    rates = {group["lr"] for group in optimizer.param_groups}
    model.make_schedule(optimizer, 1000)
    scheduled = any(group.get("initial_lr", group["lr"]) not in rates for group in optimizer.param_groups)
    for refused, reason in (
        (resumes, "a resumed run keeps its learning rate; leave it out"),
        (world_size > 1, "it searches in one process: give --trainer.devices 1, and then --model.optimizer.lr"),
        (len(rates) > 1, "it gives all weights one rate; search with --model.backbone_lr_scale 1"),
        (scheduled, "the schedule sets the rates itself; search with --model.schedule null, and give it the rate"),
    ):
        if refused:
            raise UsageError(f"trainer.callbacks: {NAME}: {reason}")


def find_rate(
    make_trainer: Callable[..., Trainer],
    settings: dict[str, Any],
    model: Classifier,
    data: ImageDataModule,
    finder: dict[str, Any],
) -> float:
    """The learning rate at which the loss falls fastest, to three digits; the model can't be used afterwards."""
    callbacks = [one for one in as_list(settings["callbacks"]) if not type(one).__module__.startswith("lightning.")]
    model.schedule = None  # the search sets the rates
    options = {name: value for name, value in finder.items() if name not in ("update_attr", "attr_name")}
    steps = options.pop("num_training_steps")
    with tempfile.TemporaryDirectory() as folder:  # for the initial weights, which Lightning saves
        trainer = make_trainer(**{**settings, **_TRIAL, "callbacks": callbacks, "default_root_dir": folder})
        found = Tuner(trainer).lr_find(model, datamodule=data, update_attr=False, num_training=steps, **options)
    assert found is not None
    rates, losses = (torch.tensor(found.results[name][10:-1]).double() for name in ("lr", "loss"))  # as suggestion()
    rates, losses = rates[losses.isfinite()], losses[losses.isfinite()]
    if len(losses) < 2:
        raise RunError(f"{NAME}: the losses of {steps} steps are too few to tell a rate from")
    # By step of the search, so by the logarithm of the rate. Lightning's suggestion() goes by the rate itself, in which
    # the smallest ones lie closest: on the digits it says 6e-5 for AdamW where this says 4e-2.
    return float(f"{rates[torch.gradient(losses)[0].argmin()]:.3g}")
