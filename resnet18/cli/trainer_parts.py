"""Refuses options of the Trainer and Lightning callbacks that can't work here, with what to do instead."""

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
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, ModelPruning, SpikeDetection, WeightAveraging
from lightning.pytorch.callbacks.timer import Interval, Timer
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch.optim import Optimizer

from resnet18.classifier import Classifier
from resnet18.cli.config_files import leaves
from resnet18.cli.explain import KeyedError
from resnet18.data.base import ImageDataModule
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.engine.loops import callbacks_of, limited_batches
from resnet18.engine.precision import unscales_itself
from resnet18.errors import UsageError
from resnet18.storage.records import BEST, LAST

CALLBACK_OPTIONS = ("--trainer.callbacks", "--trainer.callbacks+", "--trainer.callbacks.class_path")
REFUSED = {  # Lightning's callbacks
    **dict.fromkeys(
        ("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "LambdaCallback", "ProgressBar"),
        "it does nothing by itself; subclass it in a file of your own: --trainer.callbacks mine.MyCallback",
    ),
    "BackboneFinetuning": "it would freeze the last layer too; resnet18.callbacks.freezing.Freeze leaves that out",
    "BatchSizeFinder": "the batch size decides the order of the images and what a learning rate means; lightning bench "
    "--data.batch_size N says how much memory one takes",
    "OnExceptionCheckpoint": "it saves in mid-step, from where no run resumes exactly; last.ckpt is written on "
    "SIGTERM, Ctrl-C and a NaN already, and as often as --last.every_n_steps says",
    "StochasticWeightAveraging": "it can't be resumed exactly; take WeightAveraging, or --model.ema 0.999",
    "ThroughputMonitor": "it needs a function, which a configuration can't hold; images_per_s is logged without it",
}

# typing caches a Union in the order of its first use: with rich imported before Lightning,
# --trainer.limit_train_batches 1 would be 1.0, all batches instead of one.
for _name, _kind in Trainer.__init__.__annotations__.items():
    if set(get_args(_kind)) == {int, float, NoneType}:
        Trainer.__init__.__annotations__[_name] = int | float | None

# Timer's default is an enumeration, which YAML has no word for: --print_config and config.yaml write its value.
yaml.SafeDumper.add_representer(Interval, lambda dumper, value: dumper.represent_str(str(value.value)))


def as_list(given: Any) -> list[Any]:
    """Turns an argument of one, several or no values into a list."""
    return list(given) if isinstance(given, list) else [] if given is None else [given]


def refuse_callbacks(files: Iterable[tuple[Path, dict[str, Any]]], options: Iterable[str]) -> None:
    """Refuses callbacks in files and :data:`CALLBACK_OPTIONS`, before the parser asks for their arguments."""
    given = [(f"{path}: ", *leaf) for path, content in files for leaf in leaves(content)]
    for option in options:
        with contextlib.suppress(yaml.YAMLError):
            given += [("", *leaf) for leaf in leaves({"trainer.callbacks": yaml.safe_load(option)})]
    for where, key, value in given:
        module, _, name = str(value).rpartition(".")
        named = key.startswith("trainer.callbacks") and ".init_args" not in key
        if named and name in REFUSED and f"{module}.".startswith((".", "lightning.")):
            raise UsageError(f"{where}trainer.callbacks: {name} can't be used: {REFUSED[name]}")


def check_flags(command: str, trainer: dict[str, Any]) -> None:
    """Refuses arguments of the Trainer that a command can't work with."""
    scored = f"limit_{'val' if command == 'validate' else command}_batches"
    strategy, every = trainer["strategy"], trainer["val_check_interval"]
    for_notebooks = isinstance(strategy, str) and any(word in strategy for word in ("spawn", "fork", "notebook"))
    least = "must be at least 1 batch, or a share above 0, not"
    for refused, name, reason in (
        (trainer.get(scored) == 0, scored, f"{command} needs at least 1 batch; --trainer.{scored} 1.0 takes all"),
        (trainer["limit_train_batches"] == 0, "limit_train_batches", f"{least} 0"),
        (trainer["barebones"], "barebones", "a run without metrics and checkpoints; lightning bench measures it"),
        (trainer["default_root_dir"], "default_root_dir", "a run has a directory of its own, given as --run_dir"),
        (for_notebooks, "strategy", f"{strategy} is for notebooks; --trainer.strategy ddp starts the same ranks"),
        (isinstance(every, int | float) and every <= 0, "val_check_interval", f"{least} {every}"),
    ):
        if refused:
            raise KeyedError(f"trainer.{name}", reason)
    if command == "fit" and trainer["limit_val_batches"] == 0:
        for callback in as_list(trainer["callbacks"]):
            if str(monitor := getattr(callback, "monitor", "")).startswith("val/"):
                reason = f"without validation {type(callback).__name__} has no {monitor} to watch"
                raise KeyedError("trainer.limit_val_batches", reason)


def prepare_callbacks(
    callbacks: list[Callback], folder: Path, best: BestCheckpoint, last: LastCheckpoint, model: Classifier
) -> None:
    """Adapts configured callbacks to the run's own, which write into this folder."""
    for callback in list(callbacks):
        name = type(callback).__name__
        if isinstance(callback, ModelCheckpoint):
            if callback.save_last or f"{callback.filename}.ckpt" in (BEST, LAST):
                reason = f"filename and save_last must leave the run's own {BEST} and {LAST} alone"
                raise UsageError(f"trainer.callbacks: {name}: {reason}")
            callback.dirpath = callback.dirpath or str(folder.absolute())
        elif isinstance(callback, SpikeDetection):
            callback.running = callback.running_mean  # type: ignore[attr-defined]  # as its load_state_dict calls it
        elif isinstance(callback, WeightAveraging | ModelPruning):
            if model.averaging.decay:
                raise UsageError(f"trainer.callbacks: {name} and model.ema both change the weights; take one of them")
            if isinstance(callback, ModelPruning) and model.memory_format is torch.channels_last:
                raise UsageError(f"trainer.callbacks: {name} can't prune channels-last: --model.channels_last false")
        if isinstance(callback, WeightAveraging):
            # It ends by copying the average over the weights; last.ckpt must hold the trained ones.
            callbacks.insert(0, LambdaCallback(on_train_end=last.on_train_end))


def clip_fused(trainer: Trainer) -> None:
    """Allows clipping under bf16 with a fused optimizer; Lightning refuses it as if gradients were scaled."""
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
        plugin.clip_gradients = partial(Precision.clip_gradients, plugin)  # type: ignore[method-assign]


def check_resuming(trainer: Trainer) -> None:
    """Refuses to resume where a checkpoint keeps too little."""
    if any(isinstance(callback, ModelPruning) for callback in callbacks_of(trainer)):
        raise UsageError("trainer.callbacks: ModelPruning keeps no masks in a checkpoint; --init_from starts a new run")


def check_limits(trainer: Any, batches: int, data: ImageDataModule) -> None:
    """Refuses limits that don't fit an epoch's batches; Lightning would do so with the run's directory made."""
    if any(isinstance(one, Timer) and one.time_remaining() == 0 for one in trainer.callbacks):
        raise UsageError("trainer.max_time: must be above 0")
    assert data.val is not None
    val_batches = math.ceil(len(data.val) / trainer.world_size / data.eval_batch_size)
    limits = {"train": (trainer.limit_train_batches, batches), "val": (trainer.limit_val_batches, val_batches)}
    for name, (limit, count) in limits.items():
        if isinstance(limit, float) and 0 < limit * count < 1:
            key = "overfit_batches" if trainer.overfit_batches else f"limit_{name}_batches"
            raise UsageError(
                f"trainer.{key}: {limit:g} of {count} {name} batches is less than one; give a whole number"
            )
    every, epoch = trainer.val_check_interval, limited_batches(trainer, batches)
    by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
    if by_epoch and isinstance(every, int) and every > epoch:
        raise UsageError(
            f"trainer.val_check_interval: {every:,} batches are more than the {epoch:,} of an epoch; to count on "
            "through the epochs, --trainer.check_val_every_n_epoch null"
        )


def check_clipping(trainer: Any, optimizer: Optimizer) -> None:
    """Refuses clipping with a fused optimizer that unscales by itself; Lightning would in the first step."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if trainer.gradient_clip_val and scaler is not None and unscales_itself(optimizer):
        raise UsageError(
            f"trainer.gradient_clip_val: a fused {type(optimizer).__name__} can't clip in {trainer.precision}; "
            "--model.optimizer.fused false"
        )
