"""Messages about a run: when it starts, when it ends, and when it is finished already."""

import math
import re
import shlex
import textwrap
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.engine.loops import at_last_batch, callbacks_of
from resnet18.errors import counted, written
from resnet18.report.page import REPORT
from resnet18.storage.records import BEST, FOLDER, LAST, LATEST, read_metrics
from resnet18.storage.wandb_parts import parts


def opening(directory: Path, model: Classifier, data: ImageDataModule, trainer: Trainer, reason: str) -> str:
    """Describes a run: its directory, network, data, feed and precision."""
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert data.train is not None
    assert data.val is not None
    device, val = trainer.strategy.root_device.type, f"{len(data.val):,} to validate"
    lines = (
        f"{type(model.backbone).__name__}, {count:,} parameters, on {device}, {trainer.precision}",
        f"{counted(len(data.train), 'image')} to train, {val}, {data.num_classes:,} classes, split {data.split_hash}",
        data.feed_note(),
        f"precision {trainer.precision}: {reason}",
    )
    return "\n".join([str(directory), *(textwrap.fill(line, 80, subsequent_indent="  ") for line in lines)])


def closing(directory: Path, monitor: str, mode: str, trainer: Trainer, can_test: bool, report: bool) -> str:
    """Why the run ended early, if it did, its best epoch, and what to do with it."""
    latest = directory.with_name(LATEST)
    shown = latest if latest.exists() and latest.resolve() == directory.resolve() else directory
    rows = [row for row in read_metrics(directory) if monitor in row]
    lines = ["", *_early_end(trainer)]
    can_test &= any((directory / FOLDER / name).is_file() for name in (BEST, LAST))
    if rows:
        choose = max if mode == "max" else min
        best = choose(reversed(rows), key=lambda row: row[monitor])  # of equal ones the last, which is kept
        epochs = f"in epoch {best['epoch'] + 1:.0f} of {trainer.current_epoch}"
        lines.append(f"best    {monitor} {written(monitor, best[monitor])}, {epochs}")
    elif can_test:
        lines.append(f"best    none: nothing was validated, so {LAST} is what is tested")
    lines.append(f"run     {directory}")
    if can_test:
        lines.append(f"test    lightning test --ckpt_path {shlex.quote(str(shown))}")
    if report:
        lines.append(f"report  {shown / REPORT}")
    if parts(directory):
        side_by_side = directory.parent / "wandb"  # all runs of the experiment
        curves = side_by_side if side_by_side.is_dir() else shown / "wandb"
        lines.append(f"curves  wandb leet {shlex.quote(str(curves))}")
    return "\n".join(lines)


def _early_end(trainer: Trainer) -> list[str]:
    """Says what ended a run early, and when; empty for a whole run."""
    epochs, planned, whole = trainer.current_epoch, trainer.max_epochs or -1, at_last_batch(trainer)
    cut_by_steps = planned > 0 and 0 < trainer.max_steps <= trainer.global_step
    if not (trainer.should_stop or cut_by_steps) or (whole and epochs >= planned > 0):
        return []
    steps, of = counted(trainer.global_step, "step"), f" of {planned:,}" if planned > 0 else ""
    where = f"{epochs:,}{of} epochs" if whole else f"{steps}, the last in epoch {epochs:,}{of}"
    return [f"stopped early by {_stopped_by(trainer)}", f"trained {where}"]


def _stopped_by(trainer: Trainer) -> str:
    if not trainer.should_stop:
        return f"trainer.max_steps: {counted(trainer.global_step, 'step')}"
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping) and (message := callback.stopping_reason_message):
            first = message.removeprefix("Monitored metric ").partition(". ")[0]
            return f"{type(callback).__name__}: {first}"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            limit = timedelta(seconds=round(callback.time_elapsed() + left))
            return f"trainer.max_time: {limit} of training"
    return "a callback, which set trainer.should_stop"


def scores(metrics: Mapping[str, float]) -> str:
    """Formats metrics in a line."""
    return "  ".join(f"{name} {written(name, value)}" for name, value in metrics.items())


def finished(checkpoint: dict[str, Any], trainer: Trainer, run: str) -> str | None:
    """Says why a run has nothing left to train and how to train longer; None for an unfinished run."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    limits = (("epoch", epochs, trainer.max_epochs), ("step", checkpoint["global_step"], trainer.max_steps))
    for noun, done, limit in limits:
        if limit is not None and 0 <= limit <= done:
            longer = f"--trainer.max_{noun}s {2 * limit}"
            return f"this run is finished: {done:,} of {counted(limit, noun)}; {longer} continues it"
    for callback in callbacks_of(trainer):
        state = checkpoint["callbacks"].get(callback.state_key, {})
        if isinstance(callback, Timer) and state:
            used = state["time_elapsed"]["train"]
            if used >= (callback.time_remaining() or math.inf):
                return f"this run is finished: its {used:.0f} s are used up; a longer --trainer.max_time continues it"
        if isinstance(callback, EarlyStopping) and state.get("stopping_reason"):
            ended = f"{type(callback).__name__} ended it after {counted(epochs, 'epoch')}"
            return f"this run is finished: {ended}; --init_from {run} would start a new one"
    return None


def out_of_memory(error: RuntimeError) -> str | None:
    """Advice for a GPU or CPU out of memory; None for another error."""
    # CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is free.
    # […] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2147483648 bytes. Error code 12 (…)
    text = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
    if not re.search("out of memory|can't allocate memory|STATUS_ALLOC_FAILED", text):
        return None
    reason = ". ".join(text.split(". ")[:3]).removesuffix(".")
    advice = "A smaller --data.batch_size needs less, and --data.eval_batch_size where images are scored"
    return f"{reason}. {advice}; --trainer.accumulate_grad_batches N sums up N batches for a step"
