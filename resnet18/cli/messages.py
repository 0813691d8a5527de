"""What a command says of a run: when it starts, when it ends, and when there is nothing left to do."""

import math
import re
import shlex
import shutil
import textwrap
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.engine.loops import at_last_batch, callbacks_of
from resnet18.errors import counted
from resnet18.metrics import written
from resnet18.storage.checkpoints import BEST, FOLDER, LAST
from resnet18.storage.records import LATEST, read_metrics


def opening(directory: Path, model: Classifier, data: ImageDataModule, trainer: Trainer, why: str) -> str:
    """Where the run is, what is trained, on what, and how the images are fed; after the data's ``setup``.

    Args:
        directory: The run's.
        model: What is trained.
        data: On what.
        trainer: By what.
        why: Where its precision comes from.
    """
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert data.train is not None
    assert data.val is not None
    lines = (
        f"{type(model.backbone).__name__}, {count:,} parameters, on {trainer.strategy.root_device.type}, "
        f"{trainer.precision}",
        f"{counted(len(data.train), 'image')} to train, {len(data.val):,} to validate, {data.num_classes:,} classes, "
        f"split {data.split_hash}",
        data.feed_note(),
        f"precision {trainer.precision}: {why}",
    )
    return "\n".join([str(directory), *map(_wrapped, lines)])


def _wrapped(line: str) -> str:
    """In lines of 80 characters at most, less on a narrower terminal, a number beside its unit."""
    kept, width = re.sub(r"(?<=\d) (?=\S)", "\xa0", line), min(80, shutil.get_terminal_size().columns)
    return textwrap.fill(kept, width, subsequent_indent="  ", break_on_hyphens=False).replace("\xa0", " ")


def closing(directory: Path, monitor: str, mode: str, trainer: Trainer, can_test: bool) -> str:
    """Why the run ended early, if it did, its best epoch, and what to do with it."""
    latest = directory.with_name(LATEST)
    shown = latest if latest.exists() and latest.resolve() == directory.resolve() else directory
    rows = [row for row in read_metrics(directory) if monitor in row]
    lines = ["", *_early(trainer)]
    can_test &= any((directory / FOLDER / name).is_file() for name in (BEST, LAST))
    if rows:
        choose = max if mode == "max" else min
        best = choose(reversed(rows), key=lambda row: row[monitor])  # of equal ones the last, as it is kept
        epochs = f"in epoch {best['epoch'] + 1:.0f} of {trainer.current_epoch}"
        lines.append(f"best    {monitor} {written(monitor, best[monitor])}, {epochs}")
    elif can_test:
        lines.append(f"best    none: nothing was validated, so {LAST} is what is tested")
    lines.append(f"run     {directory}")
    if can_test:
        lines.append(f"test    lightning test --ckpt_path {shlex.quote(str(shown))}")
    if any((directory / "wandb").glob("*run-*")):
        lines.append(f"curves  wandb leet {shlex.quote(str(shown / 'wandb'))}")
    return "\n".join(lines)


def _early(trainer: Trainer) -> list[str]:
    """What ended a run before its last epoch's end, and how far it came; nothing for a run that came to its end."""
    begun, planned, steps = trainer.current_epoch, trainer.max_epochs or -1, trainer.global_step
    whole = at_last_batch(trainer)
    if whole and begun >= planned > 0:
        return []
    if trainer.should_stop:
        reason = _stopped_by(trainer)
    elif 0 < trainer.max_steps <= steps and planned > 0:
        reason = f"trainer.max_steps: {counted(steps, 'step')}"
    else:  # max_steps is all that there was to do
        return []
    of = f" of {planned:,}" if planned > 0 else ""
    trained = f"{begun:,}{of} epochs" if of else counted(begun, "epoch")
    if not whole:
        trained = f"{counted(steps, 'step')}, the last in epoch {begun:,}{of}"
    return [f"stopped early by {reason}", f"trained {trained}"]


def _stopped_by(trainer: Trainer) -> str:
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            return f"{type(callback).__name__}: {callback.monitor} {_because(callback)}"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            limit = timedelta(seconds=round(callback.time_elapsed() + left))
            return f"trainer.max_time: {limit} of training"
    return "a callback, which set trainer.should_stop"


def _because(callback: EarlyStopping) -> str:
    match callback.stopping_reason:
        case EarlyStoppingReason.PATIENCE_EXHAUSTED:
            least = f" by {abs(callback.min_delta):g}" if callback.min_delta else ""
            unit = "epoch" if callback._check_on_train_epoch_end else "validation"
            return f"has not improved{least} in {counted(callback.wait_count, unit)}"
        case EarlyStoppingReason.STOPPING_THRESHOLD:
            return f"has passed its stopping_threshold {callback.stopping_threshold:g}"
        case EarlyStoppingReason.DIVERGENCE_THRESHOLD:
            return f"has passed its divergence_threshold {callback.divergence_threshold:g}"
        case _:
            return "is not finite"


def scores(metrics: Mapping[str, float]) -> str:
    """Losses and shares, in a line."""
    return "  ".join(f"{name} {written(name, value)}" for name, value in metrics.items())


def finished(checkpoint: dict[str, Any], trainer: Trainer, run: str) -> str | None:
    """Why a run has nothing left to train, and what lets it train on; None if it has.

    Args:
        checkpoint: Its last one.
        trainer: As it is configured now.
        run: Its name, as one types it.
    """
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    steps, epochs, most = checkpoint["global_step"], trainer.max_epochs, trainer.max_steps
    if epochs is not None and 0 <= epochs <= done:
        longer = f"--trainer.max_epochs {2 * epochs}"
        return f"this run is finished: {done:,} of {counted(epochs, 'epoch')}; {longer} trains on"
    if 0 <= most <= steps:
        return f"this run is finished: {steps:,} of {counted(most, 'step')}; --trainer.max_steps {2 * most} trains on"
    for timer in callbacks_of(trainer):
        used = checkpoint["callbacks"].get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
        if isinstance(timer, Timer) and used >= (timer.time_remaining() or math.inf):
            return f"this run is finished: its {used:.0f} s are used up; a longer --trainer.max_time trains on"
    for callback in trainer.early_stopping_callbacks:
        state = checkpoint["callbacks"].get(callback.state_key, {})
        if state.get("stopped_epoch") or state.get("wait_count", 0) >= callback.patience > 0:
            name = type(callback).__name__
            ended = f"{name} ended it after {counted(done, 'epoch')}"
            return f"this run is finished: {ended}; --init_from {run} would start a new one"
    return None


def out_of_memory(error: RuntimeError) -> str | None:
    """What to do where the memory of the GPU, or of the CPU, was not enough; None for another error."""
    # CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is free.
    # […] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes. Error code 12 (…)
    said = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
    if not any(sign in said for sign in ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")):
        return None
    said = ". ".join(said.split(". ")[:3]).rstrip(".")
    return (
        f"{said}. A smaller --data.batch_size needs less, and --data.eval_batch_size where images are scored; "
        "--trainer.accumulate_grad_batches N sums up N batches for a step"
    )
