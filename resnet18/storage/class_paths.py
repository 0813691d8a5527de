"""What a configuration may call: models, losses, metrics, optimizers, schedules, data sources, loggers, callbacks.

A ``class_path`` in a YAML file or a checkpoint names code. jsonargparse checks classes against the expected type, but
calls any function where the type is a ``Callable``. So every class path is checked here before anything is made: a
class must be of one of the kinds below, and a function must be annotated to return one.
"""

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar, get_type_hints

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
from torchmetrics import Metric

from resnet18.errors import RunError

KINDS = (
    *(Module, Metric, Optimizer, LRScheduler, LightningDataModule, Logger, Callback),
    *(Accelerator, CheckpointIO, ClusterEnvironment, LayerSync, Precision, Profiler, Strategy),
)
KINDS_IN_WORDS = "a model, loss, metric, optimizer, schedule, data source, logger or callback"
MOVED = {"resnet18.loggers.WandbRun": "resnet18.storage.loggers.WandbRun"}  # in configurations of older runs

# Enforce jsonargparse's own list of modules that no value may name (os, subprocess, shutil, …): it only warns by
# default. And never build the value of a parameter of type Any.
jsonargparse.set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)

Kind = TypeVar("Kind")


def refuse_foreign_code(config: Any, where: str) -> None:
    """RunError for a class path or callable of another kind in a configuration, which was parsed but not made."""
    for key, value in callables(config):
        if not _allowed(value):
            name = f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
            raise RunError(f"{where}: {key} names {name}, which is not {KINDS_IN_WORDS}; it was not called")


def _allowed(value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, KINDS)
    try:
        returned = get_type_hints(value).get("return")
    except (TypeError, NameError, AttributeError):
        return False
    return isinstance(returned, type) and issubclass(returned, KINDS)


def callables(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The keys, classes and functions that a parsed configuration names by a class path or holds as objects."""
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


def current_paths(config: Any) -> Any:
    """A configuration with the class paths of today; a copy."""
    if isinstance(config, dict):
        return {name: current_paths(value) for name, value in config.items()}
    if isinstance(config, list):
        return [current_paths(value) for value in config]
    return MOVED.get(config, config) if isinstance(config, str) else config


def import_class(path: str, kind: type[Kind]) -> type[Kind]:
    """The class of a kind that a class path names, imported by jsonargparse; ArgumentError if there is none."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=type[kind])
    try:
        return parser.parse_args([f"--model={path}"]).model
    except (ImportError, AttributeError) as error:
        raise jsonargparse.ArgumentError(None, str(error)) from None


def import_object(path: str) -> Any:
    """What a class path names, if jsonargparse has imported its module (it may have refused to), else None."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        value: Any = sys.modules.get(".".join(parts[:length]))
        if value is not None:
            for name in parts[length:]:
                value = getattr(value, name, None)
            return value
    return None


def missing_module(error: Exception) -> str:
    """The message if jsonargparse could not import the module of a class path; empty for any other error."""
    found = re.search(r"No module named '([\w.]+)'", str(error))
    return f"there is no module {found[1]}; put its folder on sys.path, or install it" if found else ""


def parameter_names(made: Any) -> list[str]:
    """The parameters of a class or function that a configuration can set, those behind ``**kwargs`` included."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(made, type) else parser.add_function_arguments
    return add(made, fail_untyped=False)
