"""Which key is at fault where a class was made, and refused what it was given."""

import re

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from resnet18.cli.config_files import without_numbers
from resnet18.cli.explain import innermost
from resnet18.cli.parser import Parser
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import classes_below, hint
from resnet18.storage.class_paths import callables, import_object, parameter_names


def fault(error: Exception, config: Namespace, key: str, parser: Parser) -> tuple[str, str | None, str]:
    """The key of the class that an error is about, the argument of it where that is certain, and what to say.

    Args:
        error: What was raised.
        config: The configuration, parsed.
        key: What was being made or used.
        parser: What makes the classes.
    """
    groups = {"model": parser.model_class, "trainer": Trainer, "best": BestCheckpoint, "last": LastCheckpoint}
    made = groups.get(key) or import_object(str(config.get(f"{key}.class_path")))
    given = config.get(f"{key}.init_args") or config.get(key) or {}
    if parser.raised and str(parser.raised[0]) in str(error):  # jsonargparse tells of it in an error of its own
        error, made, given = parser.raised
        keys = [name for name, kind in groups.items() if kind is made]
        keys += [name.removesuffix(".class_path") for name, kind in callables(config) if kind is made]
        if len({without_numbers(name) for name in keys}) == 1:
            key = keys[0] if len(keys) == 1 else without_numbers(keys[0])  # of several in a list any may be at fault
    text = innermost(str(error))
    if text.startswith("backbone_lr_scale "):  # the model's, whose optimizer and schedule refuse it
        return "model", "backbone_lr_scale", text
    if "invalid strategy name" in text:
        names = [*StrategyRegistry.available_strategies(), *classes_below(Strategy)]
        return key, "strategy", f"there is no strategy {given['strategy']}{hint(given['strategy'], names)}"
    names = parameter_names(made) if made else []
    if isinstance(error, ZeroDivisionError):
        zeros = [name for name in names if given.get(name) == 0 and given.get(name) is not False]
        return key, zeros[0] if len(zeros) == 1 else None, f"must not be 0: {text}"
    words = re.findall(r"\w+", text.replace("Invalid learning rate", "lr").removeprefix("Invalid "))  # torch's
    if made is Trainer:  # all of its messages are Lightning's, and name an option somewhere, or its value
        meant = {given[name]: name for name in names if isinstance(given.get(name), str)}
        return key, next((meant.get(word, word) for word in words if word in (*names, *meant)), None), text
    return key, words[0] if words and words[0] in names else None, text
