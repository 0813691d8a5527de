"""Lightning's own callbacks, beside checkpoints, counters and averages of this project's.

What can't work here is refused, with what does the same; what lacks something gets it before the run starts.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    LambdaCallback,
    ModelCheckpoint,
    ModelPruning,
    ProgressBar,
    SpikeDetection,
    WeightAveraging,
)
from lightning.pytorch.callbacks.timer import Interval

from resnet18.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from resnet18.checkpoints import BEST, LAST, PREVIOUS
from resnet18.errors import UsageError

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


def for_evaluation(callbacks: Sequence[Callback]) -> list[Callback]:
    """Of a run's callbacks those that have a part in its evaluation: the user's own, and progress bars.

    Lightning's others are for the training, and some of them fail without a logger or an average of their own.
    """
    return [one for one in callbacks if isinstance(one, ProgressBar) or not _is_lightnings(one)]


def _is_lightnings(callback: Callback) -> bool:
    return type(callback).__module__.partition(".")[0] == "lightning"


def prepare_callbacks(
    callbacks: list[Callback], folder: Path, best: BestCheckpoint, last: LastCheckpoint, averages: bool
) -> None:
    """Gives the callbacks of a configuration what they lack beside this project's own.

    Args:
        callbacks: Those of the configuration, to which others may be added.
        folder: The run's checkpoints.
        best: What writes ``best.ckpt``.
        last: What writes ``last.ckpt``.
        averages: Whether the module keeps a moving average itself.

    Raises:
        UsageError: Where a callback can't do its part in this run.
    """
    for callback in list(callbacks):
        if isinstance(callback, ModelCheckpoint):
            _place(callback, folder)
        elif isinstance(callback, SpikeDetection):
            callback.running = callback.running_mean  # type: ignore[attr-defined]  # as its load_state_dict calls it
        elif isinstance(callback, WeightAveraging | ModelPruning):
            if averages:
                raise UsageError(
                    f"trainer.callbacks: {type(callback).__name__} and model.ema can't change the same weights; take "
                    "one of them"
                )
            # Right after the validation: at the epoch's end they may change what was validated.
            best._save_on_train_epoch_end = False
        if isinstance(callback, WeightAveraging):
            # It ends by copying the average over the weights, which last.ckpt is to have as they were trained.
            callbacks.insert(0, LambdaCallback(on_train_end=last.on_train_end))


def _place(callback: ModelCheckpoint, folder: Path) -> None:
    own = {Path(name).stem for name in (BEST, LAST, PREVIOUS)}
    if callback.save_last:
        raise UsageError(f"trainer.callbacks: ModelCheckpoint.save_last: the run writes its own {LAST}; leave it out")
    if callback.filename in own:
        raise UsageError(f"trainer.callbacks: ModelCheckpoint.filename: {callback.filename}.ckpt is the run's own")
    if callback.dirpath is None:
        callback.dirpath = str(folder.absolute())
