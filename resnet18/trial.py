"""What can be tried before anything is written or trained: what is watched, a schedule's first step, a black image."""

import copy
import math
import warnings
from collections.abc import Sequence
from textwrap import shorten

import torch
from lightning.pytorch import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnet18.callbacks.training_log import TRAINING_METRICS
from resnet18.classifier import VALIDATION_METRICS, Classifier
from resnet18.errors import UsageError
from resnet18.names import hint
from resnet18.optimization import check_length, schedule_settings
from resnet18.parser import KeyedError


def try_one_image(model: Classifier, input_size: tuple[int, int, int], device: torch.device) -> None:
    """Runs it in evaluation mode, on the CPU; a network that fails there may need its device, and gets it.

    Args:
        model: On the CPU, and left as it is.
        input_size: Channels, height and width.
        device: What will be trained on.

    Raises:
        UsageError: Where the network does not take such images, or gives other than a logit for each class.
    """
    error = _fails(model, input_size)
    if error and device.type != "cpu":
        error = _fails(copy.deepcopy(model).to(device), input_size)
    if error:
        size = "×".join(map(str, input_size))
        raise UsageError(f"model.backbone: {type(model.backbone).__name__} does not fit images of {size}: {error}")


def try_schedule(model: Classifier, total_steps: float = 1) -> None:
    """Makes the optimizer and the schedule, and lets the schedule step once; the model is left as it is.

    Args:
        model: Whose they are.
        total_steps: How many steps the run will have; infinite for one without an end.

    Raises:
        UsageError: For a schedule that does not fit a run of this length.
        ValueError, TypeError, RuntimeError, ZeroDivisionError: For a value out of range, as torch tells of it.
        KeyedError: Where the learning rate would be negative or no number.
    """
    optimizer = model.make_optimizer()
    schedule = model.make_schedule(optimizer, total_steps)
    if schedule is not None:
        check_length(schedule_settings(schedule, model.schedule_interval), total_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped
            schedule.step(1.0) if isinstance(schedule, ReduceLROnPlateau) else schedule.step()
    for group in optimizer.param_groups:
        if not 0 <= (rate := float(group.get("lr", 0.0))) < math.inf:
            raise KeyedError("model.schedule", f"the learning rate would be {rate:g}")


def check_monitors(callbacks: Sequence[Callback]) -> None:
    """Looks at what callbacks watch, where nobody but this project logs anything.

    Raises:
        ValueError: For a metric that there will not be; Lightning would find out after the first epoch.
    """
    if not all(type(callback).__module__.partition(".")[0] in ("lightning", "resnet18") for callback in callbacks):
        return
    known = (*VALIDATION_METRICS, *TRAINING_METRICS)
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in known:
            raise ValueError(f"monitor must be one of {', '.join(known)}, not {monitor}{hint(monitor, known)}")


def _fails(model: Classifier, input_size: tuple[int, int, int]) -> str:
    image = torch.zeros(1, *input_size, dtype=torch.uint8, device=model.mean.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            logits = model(image)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return shorten(str(error), 240)
    finally:
        for module, training in modes.items():
            module.training = training
    shape, expected = list(getattr(logits, "shape", ())), [1, model.num_classes]
    return "" if shape == expected else f"it gives {shape or type(logits).__name__}, and not {expected} logits"
