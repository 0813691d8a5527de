"""Checks before a run has a directory: meaningless values, a network or a schedule that does not fit."""

import copy
import math
import warnings
from collections.abc import Iterator
from textwrap import shorten

import torch
from jsonargparse import Namespace
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnet18.classifier import Classifier
from resnet18.cli.config_files import leaves
from resnet18.cli.explain import KeyedError
from resnet18.cli.monitors import direction
from resnet18.errors import UsageError
from resnet18.optimization import schedule_settings

# The Trainer accepts less without a check, and later divides by zero or does nothing.
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "log_every_n_steps": 0}


def refused_values(config: Namespace) -> Iterator[tuple[str, str]]:
    """Yields the dotted keys with refused values, each with what was expected."""
    for key, value in leaves(config):
        if isinstance(value, float) and (
            math.isnan(value) or (key.startswith("model.optimizer.") and math.isinf(value))
        ):
            yield key, f"expected a finite number, not {value}"
        if key.endswith("monitor") and str(value).startswith("test/"):
            yield key, f"{value} would choose by the test images; monitor a val/ metric"
    trainer = config.get("trainer", Namespace())
    for name in ("max_epochs", "max_steps"):
        if trainer.get(name) == 0:
            yield f"trainer.{name}", f"{name} must be at least 1, or -1 for no end, not 0"
    for name, least in LEAST.items():
        if (value := trainer.get(name)) is not None and value < least:
            yield f"trainer.{name}", f"{name} must be at least {least}, not {value}"


def check_forward(model: Classifier, input_size: tuple[int, int, int], device: torch.device) -> None:
    """Runs a copy of the model on one black image of C×H×W on ``device``; refuses anything but a logit per class."""
    size = "×".join(map(str, input_size))
    misfit = f"model.backbone: {type(model.backbone).__name__} does not fit images of {size}"
    model = copy.deepcopy(model).to(device).eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *input_size, dtype=torch.uint8, device=device))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(f"{misfit}: {shorten(str(error), 240)}") from error
    shape, expected = list(getattr(logits, "shape", ())), [1, model.num_classes]
    if shape != expected:
        raise UsageError(f"{misfit}: it gives {shape or type(logits).__name__}, and not {expected} logits")


def check_schedule(model: Classifier, total_steps: float = 1) -> None:
    """Lets the schedule of a run of ``total_steps`` (infinite without an end) step once; torch's errors pass."""
    optimizer = model.make_optimizer()
    schedule = model.make_schedule(optimizer, total_steps)
    if schedule is not None:
        settings = schedule_settings(schedule, model.schedule_interval, total_steps)
        if isinstance(schedule, ReduceLROnPlateau) and settings["monitor"] in model.metric_modes:
            direction("model.schedule.init_args", settings["monitor"], schedule.mode, model.metric_modes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an optimizer that has not stepped
            schedule.step(1.0) if isinstance(schedule, ReduceLROnPlateau) else schedule.step()
    for group in optimizer.param_groups:
        if not 0 <= (rate := float(group.get("lr", 0.0))) < math.inf:
            raise KeyedError("model.schedule", f"the learning rate would be {rate:g}")


def check_scoring(model: Classifier, targets: Tensor) -> None:
    """Computes copies of the loss and every metric once, on zero logits and a few of the data's targets."""
    logits = torch.zeros(len(targets), model.num_classes)
    shapes = f"logits of {_shape(logits)} and targets of {_shape(targets)}, {targets.dtype}".replace("torch.", "")
    scored = {"loss": model.loss} | {f"metrics.{name}": one for name, one in model.val_scores.items(keep_base=True)}
    for key, module in scored.items():
        name, module = type(module).__name__, copy.deepcopy(module)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about classes missing among a few images
                value = module(logits, targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise KeyedError(f"model.{key}", f"{name} fails for {shapes}: {shorten(str(error), 240)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            given = f"a tensor of {_shape(value)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise KeyedError(f"model.{key}", f"{name} gives {given}, and not one number")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
