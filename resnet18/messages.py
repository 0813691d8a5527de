"""What a command says of a run: when it starts, when it ends, and when there is nothing left to do."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from resnet18.checkpoints import LAST
from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.position import callbacks_of
from resnet18.runs import LATEST, read_metrics


def opening(directory: Path, model: Classifier, data: ImageDataModule, trainer: Trainer) -> str:
    """Where the run is, what is trained, on what, and how the images are fed; after the data's ``setup``."""
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert data.train is not None
    assert data.val is not None
    return (
        f"{directory}\n"
        f"{type(model.backbone).__name__}, {count:,} parameters, on {trainer.strategy.root_device.type}, "
        f"{trainer.precision}; {len(data.train):,} images to train, {len(data.val):,} to "
        f"validate, {data.num_classes} classes, split {data.split_hash}\n{data.feed_note()}"
    )


def closing(directory: Path, monitor: str, mode: str, epochs: int) -> str:
    """The best epoch, and what to do with the run."""
    latest = directory.with_name(LATEST)
    shown = latest if latest.exists() and latest.resolve() == directory.resolve() else directory
    rows = [row for row in read_metrics(directory) if monitor in row]
    lines = [""]
    if rows:
        choose = max if mode == "max" else min
        best = choose(reversed(rows), key=lambda row: row[monitor])  # of equal ones the last, as it is kept
        value = f"{100 * best[monitor]:.2f} %" if "top" in monitor else f"{best[monitor]:.4f}"
        lines.append(f"best    {monitor} {value}, in epoch {best['epoch'] + 1:.0f} of {epochs}")
    else:
        lines.append(f"best    none: nothing was validated, so {LAST} is what is tested")
    lines.append(f"run     {directory}")
    lines.append(f"test    lightning test --ckpt_path {shlex.quote(str(shown))}")
    if any((directory / "wandb").glob("*run-*")):
        lines.append(f"curves  wandb leet {shlex.quote(str(shown / 'wandb'))}")
    return "\n".join(lines)


def scores(metrics: Mapping[str, float]) -> str:
    """Losses and shares, in a line."""
    return "  ".join(
        f"{name} {value:.4f}" if name.endswith("loss") else f"{name} {100 * value:.2f} %"
        for name, value in metrics.items()
    )


def finished(checkpoint: dict[str, Any], trainer: Trainer, run: str) -> str | None:
    """Why a run has nothing left to train, and how it would go on all the same; None if it has.

    Args:
        checkpoint: Its last one.
        trainer: As it is configured now.
        run: Its name.
    """
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    steps, epochs, most = checkpoint["global_step"], trainer.max_epochs, trainer.max_steps
    if epochs is not None and 0 <= epochs <= done:
        return f"this run is finished: {done} of {epochs} epochs; --trainer.max_epochs {2 * epochs} would go on"
    if 0 <= most <= steps:
        return f"this run is finished: {steps:,} of {most:,} steps; --trainer.max_steps {2 * most} would go on"
    for timer in callbacks_of(trainer):
        used = checkpoint["callbacks"].get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
        if isinstance(timer, Timer) and used >= (timer.time_remaining() or math.inf):
            return f"this run is finished: its {used:.0f} s are used up; a longer --trainer.max_time would go on"
    for callback in trainer.early_stopping_callbacks:
        state = checkpoint["callbacks"].get(callback.state_key, {})
        if state.get("stopped_epoch") or state.get("wait_count", 0) >= callback.patience > 0:
            name = type(callback).__name__
            return f"this run is finished: {name} ended it after {done} epochs; --init_from {run} would start a new one"
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
