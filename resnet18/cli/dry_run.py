"""What shows before a run has a directory: values that mean nothing, a network or a schedule that does not fit."""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import Any, get_args

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnet18.classifier import Classifier
from resnet18.cli.config_files import leaves
from resnet18.cli.explain import KeyedError
from resnet18.errors import UsageError, hint
from resnet18.metrics import Mode
from resnet18.optimization import check_length, schedule_settings

# What the Trainer takes without looking, to divide by zero or do nothing later.
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "log_every_n_steps": 0}


def refused_values(config: Namespace) -> Iterator[tuple[str, str]]:
    """The dotted keys of a parsed configuration whose values are refused, each with what was expected."""
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
    """Runs a copy of the model, in evaluation mode, on one black image.

    Args:
        model: On the CPU, and left as it is.
        input_size: Channels, height and width.
        device: What will be trained on.

    Raises:
        UsageError: Where the network does not take such images, or gives other than a logit for each class.
    """
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
    """Makes the optimizer and the schedule, and lets the schedule step once; the model is left as it is.

    Args:
        model: Whose they are.
        total_steps: How many steps the run will have; infinite for one without an end.

    Raises:
        UsageError: For a schedule that does not fit a run of this length.
        ValueError, TypeError, RuntimeError, ZeroDivisionError: For a value out of range, as torch tells of it.
        KeyedError: For a learning rate below zero or not finite, and for a ``ReduceLROnPlateau`` in the wrong mode.
    """
    optimizer = model.make_optimizer()
    schedule = model.make_schedule(optimizer, total_steps)
    if schedule is not None:
        settings = schedule_settings(schedule, model.schedule_interval)
        check_length(settings, total_steps)
        if isinstance(schedule, ReduceLROnPlateau) and settings["monitor"] in model.metric_modes:
            _mode("model.schedule.init_args", settings["monitor"], schedule.mode, model.metric_modes, others=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped
            schedule.step(1.0) if isinstance(schedule, ReduceLROnPlateau) else schedule.step()
    for group in optimizer.param_groups:
        if not 0 <= (rate := float(group.get("lr", 0.0))) < math.inf:
            raise KeyedError("model.schedule", f"the learning rate would be {rate:g}")


def follow_metrics(
    config: Namespace, given: Namespace, record: dict[str, Any], made: Namespace, model: Classifier
) -> None:
    """Lets everything that watches a metric watch for more of it, or less, as the metric has it.

    Args:
        config: As parsed; a ``mode`` that was left out is filled in, in ``record`` too.
        given: Likewise without the defaults, which tells what was left out.
        record: What the run keeps of the configuration.
        made: The Trainer's arguments, with the callbacks of the configuration; those that watched in the wrong
            direction by default are made anew.
        model: Whose metrics are watched.

    Raises:
        KeyedError: For a metric that there will not be, which Lightning would find out after the first epoch; for a
            ``mode`` that contradicts the metric, and for one that is missing.
    """
    modes = model.metric_modes
    made.callbacks = callbacks = _listed(made.callbacks)
    others = any(type(one).__module__.partition(".")[0] not in ("lightning", "resnet18") for one in callbacks)
    best = config.best
    best.mode = record["best"]["mode"] = _mode("best", best.monitor, best.mode, modes, others)
    places = [_listed(one.get("trainer", {}).get("callbacks")) for one in (config, given, record)]
    for number, (callback, settings, own, kept) in enumerate(zip(callbacks, *places, strict=True)):
        monitor, now = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if monitor is None:
            continue
        key, known = f"trainer.callbacks[{number}].init_args", "mode" in settings.get("init_args", {})
        asked = own.get("init_args", {}).get("mode") if known else now  # or the class decides, and not as it should
        if now not in get_args(Mode):  # it has no direction, or means something else by the word
            asked = now = modes.get(monitor) or "max"
        mode = _mode(key, monitor, asked, modes, others)
        if mode != now:
            settings.init_args.mode = kept["init_args"]["mode"] = mode
            parser = ArgumentParser(exit_on_error=False)
            parser.add_subclass_arguments(Callback, "callback")
            callbacks[number] = parser.instantiate(Namespace(callback=settings)).callback


MORE = {"max": "more", "min": "less"}


def _mode(key: str, monitor: str, given: Any, modes: Mapping[str, Mode | None], others: bool) -> Mode:
    """The direction to watch a metric in: its own, or for one of which nothing is known the one that was given."""
    if monitor not in modes and (not others or monitor.startswith("test/")):
        raise KeyedError(f"{key}.monitor", f"must be one of {', '.join(modes)}, not {monitor}{hint(monitor, modes)}")
    own = modes.get(monitor)
    if own and given not in (None, own):
        raise KeyedError(f"{key}.mode", f"{given} contradicts {monitor}, of which {MORE[own]} is better: {own}")
    if not (mode := own or given):
        known = ", ".join(name for name, way in modes.items() if way)
        why = f"what is better is known of {known}, and not of {monitor}{hint(monitor, modes)}"
        raise KeyedError(f"{key}.mode", f"max or min must be given; {why}")
    return mode


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
