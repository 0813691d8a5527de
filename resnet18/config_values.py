"""Values that jsonargparse takes and that mean nothing: null for a number, NaN, no steps, a test metric watched."""

import inspect
import math
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from resnet18.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from resnet18.class_paths import import_object
from resnet18.classifier import Classifier
from resnet18.config_files import leaves

# What the Trainer takes without looking, to divide by zero or do nothing later.
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "log_every_n_steps": 0}
GROUPS = {"model": Classifier, "trainer": Trainer, "best": BestCheckpoint, "last": LastCheckpoint}


FOLDER_NAMES = "without slashes, control characters or a dot at its start"


def can_name_a_folder(name: str) -> bool:
    """Whether a name leads nowhere else, and can be seen and typed."""
    return name[:1] not in ("", ".") and name.isprintable() and not {*"/\\"} & set(name)


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
    yield from ((key, "expected a value, not null") for key in _nulls(vars(config), None, ""))


def _nulls(values: Any, made: Any, key: str) -> Iterator[str]:
    values = vars(values) if isinstance(values, Namespace) else values
    if isinstance(values, list):
        for number, value in enumerate(values):
            yield from _nulls(value, None, f"{key}[{number}]")
    elif isinstance(values, dict):
        if "class_path" in values:
            made = import_object(str(values["class_path"]))
            yield from _nulls(values.get("init_args"), made, f"{key}.init_args")
            return
        for name, value in values.items():
            inner = f"{key}.{name}".lstrip(".")
            if value is None and made is not None and not takes_none(made, name):
                yield inner
            yield from _nulls(value, None if key else GROUPS.get(name), inner)


def takes_none(made: Any, name: str) -> bool:
    """Whether None may be given for an argument: of a class, those behind its ``**kwargs`` included, or a function.

    Where nothing is said about an argument, or it is None by default, or nobody but the program gives it: True.
    """
    classes = made.__mro__ if isinstance(made, type) else ()
    for owner in [vars(part)["__init__"] for part in classes if "__init__" in vars(part)] or [made]:
        try:
            parameter = inspect.signature(owner).parameters.get(name)
            hints = get_type_hints(owner)
        except (TypeError, ValueError, NameError, AttributeError):
            return True
        if parameter is not None:
            kind = hints.get(name, Any)
            optional = parameter.default is None or parameter.default is parameter.empty
            return optional or kind in (Any, None, NoneType) or NoneType in get_args(kind)
    return True
