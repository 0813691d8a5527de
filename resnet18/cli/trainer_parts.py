"""Lightning's own callbacks, beside checkpoints, counters and averages of this project's.

What can't work here is refused, with what does the same; what lacks something gets it before the run starts.
"""

import contextlib
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    LambdaCallback,
    ModelCheckpoint,
    ModelPruning,
    SpikeDetection,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.callbacks.timer import Interval
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch.optim import Optimizer

from resnet18.classifier import Classifier
from resnet18.cli.explain import KeyedError
from resnet18.data.base import ImageDataModule
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.engine.loops import callbacks_of
from resnet18.engine.precision import unscales_itself
from resnet18.errors import UsageError
from resnet18.storage.checkpoints import BEST, LAST, PREVIOUS

_ABSTRACT = "it does nothing by itself; subclass it in a file of your own: --trainer.callbacks mine.MyCallback"
REFUSED = {
    "BackboneFinetuning": "it would freeze the last layer too; resnet18.callbacks.freezing.Freeze trains that one "
    "alone for its first epochs",
    "BaseFinetuning": _ABSTRACT,
    "BasePredictionWriter": _ABSTRACT,
    "BatchSizeFinder": "the batch size decides the order of the images and what a learning rate means, so it stays "
    "as configured; lightning bench --data.batch_size N says how much memory a size takes",
    "Callback": _ABSTRACT,
    "Checkpoint": _ABSTRACT,
    "LambdaCallback": "a configuration can't hold functions; write a Callback in a file of your own: "
    "--trainer.callbacks mine.MyCallback",
    "OnExceptionCheckpoint": "it saves in mid-step, from where no run resumes exactly; last.ckpt is written on "
    "SIGTERM, Ctrl-C and a NaN already, and as often as --last.every_n_steps says",
    "ProgressBar": _ABSTRACT,
    "StochasticWeightAveraging": "it trains an epoch more than configured and can't be resumed exactly; "
    "--trainer.callbacks WeightAveraging averages the weights of all steps, --model.ema 0.999 the latest",
    "ThroughputMonitor": "it needs a function, which a configuration can't hold; images_per_s is logged without it",
}
"""Lightning's callbacks that can't be used, each with the reason and what to do instead."""

CALLBACK_OPTIONS = ("--trainer.callbacks", "--trainer.callbacks+", "--trainer.callbacks.class_path")

# typing keeps one Union of a set of types, ordered as whoever asked first had it: with rich imported before Lightning,
# --trainer.limit_train_batches 1 would be 1.0, all batches instead of one.
for _name, _kind in Trainer.__init__.__annotations__.items():
    if set(get_args(_kind)) == {int, float, NoneType}:
        Trainer.__init__.__annotations__[_name] = int | float | None

# Timer's default is an enumeration, which YAML has no word for: --print_config and config.yaml write its value.
yaml.SafeDumper.add_representer(Interval, lambda dumper, value: dumper.represent_str(str(value.value)))


def refuse_callbacks(files: Iterable[tuple[Path, dict[str, Any]]], options: Iterable[str]) -> None:
    """Looks for callbacks that can't be used, before the parser asks for their arguments.

    Args:
        files: The configurations, each with its path.
        options: What :data:`CALLBACK_OPTIONS` were given.

    Raises:
        UsageError: For the first one; with what to do instead.
    """
    for path, content in files:
        trainer = content.get("trainer")
        if isinstance(trainer, dict):
            _refuse(trainer.get("callbacks"), f"{path}: ")
    for value in options:
        with contextlib.suppress(yaml.YAMLError):
            _refuse(yaml.safe_load(value), "")


def _refuse(given: Any, where: str) -> None:
    if isinstance(given, list):
        for one in given:
            _refuse(one, where)
        return
    path = str(given.get("class_path") if isinstance(given, dict) else given)
    module, _, name = path.rpartition(".")
    if name in REFUSED and (not module or module.startswith(("lightning.", "pytorch_lightning."))):
        raise UsageError(f"{where}trainer.callbacks: {name} can't be used: {REFUSED[name]}")


def as_list(given: Any) -> list[Any]:
    """What an argument of the Trainer holds that takes one, several or none."""
    return list(given) if isinstance(given, list) else [] if given is None else [given]


def prepare_callbacks(
    callbacks: list[Callback], folder: Path, best: BestCheckpoint, last: LastCheckpoint, model: Classifier
) -> None:
    """Gives the callbacks of a configuration what they lack beside this project's own.

    Args:
        callbacks: Those of the configuration, to which others may be added.
        folder: The run's checkpoints.
        best: What writes ``best.ckpt``.
        last: What writes ``last.ckpt``.
        model: What is trained.

    Raises:
        UsageError: Where a callback can't do its part in this run.
    """
    for callback in list(callbacks):
        if isinstance(callback, ModelCheckpoint):
            _place(callback, folder)
        elif isinstance(callback, SpikeDetection):
            callback.running = callback.running_mean  # type: ignore[attr-defined]  # as its load_state_dict calls it
        elif isinstance(callback, WeightAveraging | ModelPruning):
            name = type(callback).__name__
            if model.averaging.decay:
                raise UsageError(f"trainer.callbacks: {name} and model.ema both change the weights; take one of them")
            if isinstance(callback, ModelPruning) and model.memory_format is torch.channels_last:
                raise UsageError(
                    f"trainer.callbacks: {name} needs weights as torch lays them: --model.channels_last false"
                )
        if isinstance(callback, WeightAveraging):
            # It ends by copying the average over the weights, which last.ckpt is to have as they were trained.
            callbacks.insert(0, LambdaCallback(on_train_end=last.on_train_end))


def check_resuming(trainer: Trainer) -> None:
    """Refuses to resume a run that would not be the same.

    Raises:
        UsageError: Where a callback keeps too little in a checkpoint.
    """
    if any(isinstance(callback, ModelPruning) for callback in callbacks_of(trainer)):
        raise UsageError(
            "trainer.callbacks: ModelPruning keeps no masks in a checkpoint, so its run can't be resumed; --init_from "
            "starts a new one from its weights"
        )


def _place(callback: ModelCheckpoint, folder: Path) -> None:
    own = {Path(name).stem for name in (BEST, LAST, PREVIOUS)}
    if callback.save_last:
        raise UsageError(f"trainer.callbacks: ModelCheckpoint.save_last: the run writes its own {LAST}; leave it out")
    if callback.filename in own:
        raise UsageError(f"trainer.callbacks: ModelCheckpoint.filename: {callback.filename}.ckpt is the run's own")
    if callback.dirpath is None:
        callback.dirpath = str(folder.absolute())


def check_flags(command: str, trainer: dict[str, Any]) -> None:
    """Refuses what a Trainer of this project can't do.

    Args:
        command: ``fit`` or another.
        trainer: Its arguments.

    Raises:
        KeyedError: For the first one, with what to do instead.
    """
    scored = {"validate": "limit_val_batches"}.get(command, f"limit_{command}_batches")
    if trainer.get(scored) == 0:
        raise KeyedError(f"trainer.{scored}", f"{command} needs at least 1 batch; --trainer.{scored} 1.0 takes all")
    if trainer["limit_train_batches"] == 0:
        raise KeyedError("trainer.limit_train_batches", "must be at least 1 batch, or a share above 0, not 0")
    if trainer["barebones"]:
        raise KeyedError("trainer.barebones", "a run without metrics and checkpoints; lightning bench measures it")
    if trainer["default_root_dir"] is not None:
        raise KeyedError("trainer.default_root_dir", "a run has a directory of its own, given as --run_dir")
    strategy = trainer["strategy"]
    if isinstance(strategy, str) and any(word in strategy for word in ("spawn", "fork", "notebook")):
        raise KeyedError(
            "trainer.strategy", f"{strategy} is for notebooks; --trainer.strategy ddp starts the same ranks"
        )
    if isinstance(every := trainer["val_check_interval"], int | float) and every <= 0:
        raise KeyedError("trainer.val_check_interval", f"must be at least 1 batch, or a share above 0, not {every}")
    if command == "fit" and trainer["limit_val_batches"] == 0:
        for one in as_list(trainer["callbacks"]):
            if str(monitor := getattr(one, "monitor", None)).startswith("val/"):
                raise KeyedError(
                    "trainer.limit_val_batches", f"without validation {type(one).__name__} has no {monitor} to watch"
                )


def check_limits(trainer: Any, train: int, data: ImageDataModule) -> None:
    """Compares the Trainer's limits with the batches that there are; Lightning would find out in the run's directory.

    Args:
        trainer: As it is configured.
        train: Batches of training images in an epoch.
        data: Set up.

    Raises:
        UsageError: Where a limit leaves none or no time, or validates after more batches than an epoch has.
    """
    for timer in trainer.callbacks:
        if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None and left <= 0:
            raise UsageError("trainer.max_time: must be above 0")
    assert data.val is not None
    val = math.ceil(len(data.val) / trainer.world_size / data.eval_batch_size)
    limits = {"train": trainer.limit_train_batches, "val": trainer.limit_val_batches}
    for stage, batches in (("train", train), ("val", val)):
        if isinstance(limits[stage], float) and 0 < limits[stage] * batches < 1:
            name = "overfit_batches" if trainer.overfit_batches else f"limit_{stage}_batches"
            kind = "training" if stage == "train" else "validation"
            raise UsageError(
                f"trainer.{name}: {limits[stage]:g} of {batches} {kind} batches is less than one; give a whole number, "
                "or more"
            )
    every = trainer.val_check_interval
    train = min(train, limits["train"]) if isinstance(limits["train"], int) else int(train * limits["train"])
    if isinstance(every, int) and every > train and trainer.check_val_every_n_epoch is not None and limits["val"]:
        raise UsageError(
            f"trainer.val_check_interval: {every:,} batches are more than the {train:,} of an epoch; to count on "
            "through the epochs, --trainer.check_val_every_n_epoch null"
        )


def clip_fused(trainer: Trainer) -> None:
    """Lets gradients be clipped under bf16 with a fused optimizer.

    Lightning refuses that for every mixed precision, for the sake of the gradients' scaler, which bf16 does without.
    """
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
        plugin.clip_gradients = partial(Precision.clip_gradients, plugin)  # type: ignore[method-assign]


def check_clipping(trainer: Any, optimizer: Optimizer) -> None:
    """Looks whether gradients can be clipped, where they are scaled; Lightning would find out in the first step.

    Raises:
        UsageError: For a fused optimizer, which takes the scale off by itself.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if trainer.gradient_clip_val and scaler is not None and unscales_itself(optimizer):
        raise UsageError(
            f"trainer.gradient_clip_val: a fused {type(optimizer).__name__} can't clip in {trainer.precision}; "
            "--model.optimizer.fused false"
        )
