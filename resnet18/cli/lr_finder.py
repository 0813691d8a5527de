"""``--trainer.callbacks LearningRateFinder``: the rate is found before the run, which then starts as if it were given.

Lightning's callback searches inside the run and sets an attribute of the module, which no configuration knows of: what
``config.yaml`` says would not be what trained. Here its range test (Smith, https://arxiv.org/abs/1506.01186) has a
Trainer of its own, whose steps leave nothing behind.
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
_SKIPPED = 10  # losses: Lightning's running mean begins with them
_TRIAL = {  # 100 steps by default, whatever the run's length; nothing is logged, saved or validated
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0},
    **{"max_epochs": -1, "max_steps": -1, "max_time": None, "min_epochs": None, "min_steps": None, "profiler": None},
    **{"check_val_every_n_epoch": 2**31, "val_check_interval": None},
}


def take_finder(trainer: Namespace) -> dict[str, Any] | None:
    """Takes the finder out of a Trainer's configuration; returns its arguments, None where there is none."""
    callbacks = as_list(trainer.get("callbacks"))
    for callback in callbacks:
        if isinstance(callback, Namespace) and import_object(callback.class_path) is LearningRateFinder:
            trainer.callbacks = [one for one in callbacks if one is not callback] or None
            return dict(vars(callback.get("init_args") or Namespace()))
    return None


def check_search(model: Classifier, world_size: int, resumes: bool) -> None:
    """Looks whether a rate that is found could be the run's.

    Args:
        model: As the run would train it.
        world_size: How many processes train.
        resumes: Whether the run goes on from a checkpoint.

    Raises:
        UsageError: Where it could not; says what to do.
    """
    optimizer = model.make_optimizer()
    rates = {group.get("lr") for group in optimizer.param_groups}
    model.make_schedule(optimizer, 1000)
    reason = ""
    if resumes:
        reason = "a resumed run keeps its learning rate; leave it out"
    elif world_size > 1:
        reason = "it searches in one process: give --trainer.devices 1, and then --model.optimizer.lr what it finds"
    elif None in rates:
        reason = f"{type(optimizer).__name__} has no learning rate"
    elif len(rates) > 1:
        reason = "it gives all weights one rate; search with --model.backbone_lr_scale 1"
    elif any(group.get("initial_lr") not in (None, *rates) for group in optimizer.param_groups):
        reason = "the schedule sets the rates itself; search with --model.schedule null, and give it what was found"
    if reason:
        raise UsageError(f"trainer.callbacks: {NAME}: {reason}")


def find_rate(
    make_trainer: Callable[..., Trainer],
    settings: dict[str, Any],
    model: Classifier,
    data: ImageDataModule,
    finder: dict[str, Any],
) -> float:
    """The learning rate at which the loss falls fastest, to three digits; the model is spent afterwards.

    Args:
        make_trainer: Makes a Trainer.
        settings: The run's, of which the device, the precision, the batches and the user's own callbacks count here.
        model: As it is to be trained.
        data: Set up for it.
        finder: The finder's own arguments.

    Raises:
        RunError: Where too few of the losses were finite.
    """
    callbacks = [one for one in as_list(settings["callbacks"]) if not type(one).__module__.startswith("lightning.")]
    model.schedule = None  # the search has one of its own
    options = {name: value for name, value in finder.items() if name not in ("update_attr", "attr_name")}
    options["num_training"] = options.pop("num_training_steps")
    with tempfile.TemporaryDirectory() as folder:  # for the weights to start from, which it saves
        trainer = make_trainer(**{**settings, **_TRIAL, "callbacks": callbacks, "default_root_dir": folder})
        found = Tuner(trainer).lr_find(model, datamodule=data, update_attr=False, **options)
    losses = torch.tensor(found.results["loss"][_SKIPPED:-1] if found is not None else [])
    rates = torch.tensor(found.results["lr"][_SKIPPED:-1] if found is not None else [], dtype=torch.float64)
    finite = losses.isfinite()
    if finite.sum() < 2:
        raise RunError(f"{NAME}: the losses of {options['num_training']} steps are too few to tell a rate from")
    # By step of the search, so by the logarithm of the rate. Lightning's suggestion() goes by the rate itself, in which
    # the smallest ones lie closest: on the digits it says 6e-5 for AdamW where this says 4e-2.
    return float(f"{rates[finite][torch.gradient(losses[finite])[0].argmin()]:.3g}")
