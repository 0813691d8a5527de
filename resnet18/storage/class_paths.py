"""What a configuration may call: models, optimizers, schedules, data sources, loggers, callbacks, Trainer's plugins.

A ``class_path`` in a YAML file or a checkpoint names code. jsonargparse checks classes against the type they stand for,
but calls a function by any name where the type is a ``Callable``. So every class path is looked at here before
anything is made: a class must be of one of the kinds below, and a function must be annotated to return one.
"""

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, get_type_hints

import jsonargparse
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from resnet18.errors import RunError

KINDS = (
    *(Module, Optimizer, LRScheduler, LightningDataModule, Logger, Callback),
    *(Accelerator, CheckpointIO, ClusterEnvironment, LayerSync, Precision, Profiler, Strategy),
)

# Enforce jsonargparse's own list of modules that no value may name (os, subprocess, shutil, …): it only warns by
# default. And never build what stands in a parameter of type Any.
jsonargparse.set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)


def refuse_foreign_code(config: Any, where: str) -> None:
    """Checks every class path and every callable in a parsed configuration.

    Args:
        config: As parsed: class paths have been resolved by jsonargparse, nothing has been made.
        where: Where the configuration is from, for the message.

    Raises:
        RunError: Names the key and the class path; nothing has been called.
    """
    for key, value in callables(config):
        if not _allowed(value):
            name = f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
            kinds = "a model, optimizer, schedule, data source, logger or callback"
            raise RunError(f"{where}: {key} names {name}, which is not {kinds}; it was not called")


def _allowed(value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, KINDS)
    try:
        returned = get_type_hints(value).get("return")
    except (TypeError, NameError, AttributeError):
        return False
    return isinstance(returned, type) and issubclass(returned, KINDS)


def callables(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The keys and the classes and functions that a parsed configuration names, by a class path or as they are."""
    if isinstance(config, jsonargparse.Namespace):
        config = vars(config)
    if isinstance(config, dict):
        for name, value in config.items():
            inner = f"{key}.{name}".lstrip(".")
            if name == "class_path" and isinstance(value, str):
                yield inner, import_object(value)
            else:
                yield from callables(value, inner)
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            yield from callables(value, f"{key}[{number}]")
    elif isinstance(config, partial):
        yield from callables([config.func, *config.args, config.keywords], key)
    elif callable(config) and not isinstance(config, (*KINDS, os.PathLike)):
        yield key, config


def missing_module(error: Exception) -> str:
    """What to say where jsonargparse could not import what a class path names; empty for any other error."""
    found = re.search(r"No module named '([\w.]+)'", str(error))
    return f"there is no module {found[1]}; put its folder on sys.path, or install it" if found else ""


def import_object(path: str) -> Any:
    """What a class path names, once jsonargparse has imported its module (or refused to: then None)."""
    value: Any = None
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            value = module
            for name in parts[length:]:
                value = getattr(value, name, None)
            break
    return value
