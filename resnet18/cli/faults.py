"""Which key is at fault where a class was made, and refused what it was given."""

import re
from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from resnet18.cli.explain import GROUPS, Parser, innermost
from resnet18.errors import classes_below, hint
from resnet18.storage.class_paths import import_object, parameter_names


def fault(error: Exception, config: Namespace, key: str, parser: Parser) -> tuple[str, str | None, str]:
    """The key of the class that an error is about, the argument of it where that is certain, and what to say.

    Args:
        error: What was raised.
        config: The configuration, parsed.
        key: What was being made or used.
        parser: What makes the classes.
    """
    groups = {**GROUPS, "model": parser.model_class}
    made = groups.get(key) or import_object(str(config.get(f"{key}.class_path")))
    given = config.get(f"{key}.init_args") or config.get(key) or {}
    if parser.raised and str(parser.raised[0]) in str(error):  # jsonargparse tells of it in an error of its own
        error, made, given = parser.raised
        keys = [(name, values) for name, kind, values in _classes(config, groups) if kind is made]
        exact = [name for name, values in keys if all(given.get(one) == value for one, value in values.items())]
        key = next(iter([*exact, *(name for name, _ in keys)]), key)
    text = innermost(str(error))
    if text.startswith("backbone_lr_scale "):  # the model's, whose optimizer and schedule refuse it
        return "model", "backbone_lr_scale", text
    if "invalid strategy name" in text:
        names = [*StrategyRegistry.available_strategies(), *classes_below(Strategy)]
        return key, "strategy", f"there is no strategy {given['strategy']}{hint(given['strategy'], names)}"
    if isinstance(error, ZeroDivisionError):
        zeros = [name for name in parameter_names(made) if given.get(name) == 0 and given.get(name) is not False]
        return key, zeros[0] if len(zeros) == 1 else None, f"must not be 0: {text}"
    return key, _argument(text, made, given) if made else None, text


def _classes(config: Namespace, groups: dict[str, type]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Everything in a configuration that is made: its key, its class, and those of its arguments that are not."""
    for name, kind in groups.items():
        if name in config:
            yield name, kind, {}

    def below(value: Any, key: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        if isinstance(value, list):
            for number, one in enumerate(value):
                yield from below(one, f"{key}[{number}]")
        elif isinstance(value, Namespace):
            if "class_path" in value:
                arguments = vars(value.get("init_args") or Namespace())
                plain = {name: one for name, one in arguments.items() if isinstance(one, str | int | float | None)}
                yield key, import_object(str(value.class_path)), plain
            for name, one in vars(value).items():
                yield from below(one, f"{key}.{name}".lstrip("."))

    yield from below(config, "")


def _argument(text: str, made: Any, given: Any) -> str | None:
    """The argument of a class or a function that a message is about, if that is certain."""
    names = parameter_names(made)
    text = re.sub(r"^Invalid (learning rate)?", lambda found: "lr" if found[1] else "", text)  # torch's
    if (first := re.match(r"\W*(\w+)", text)) and first[1] in names:
        return first[1]
    if made is Trainer:  # all of its messages are Lightning's, and name an option somewhere, or its value
        values = {name: given[name] for name in names if given.get(name) is not None}
        for wanted in ([f"{name}=" for name in values], values, values.values()):
            found = {
                name: place.start()
                for name, word in zip(values, wanted, strict=True)
                if isinstance(word, str) and (place := re.search(rf"\b{re.escape(word)}", text))
            }
            if found:
                return min(found, key=found.__getitem__)
    return None
