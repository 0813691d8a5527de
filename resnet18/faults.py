"""Which key of a configuration an error is about.

The key of the class that raised it, or of one of its arguments where the message opens with that argument's name, as
those of this project, of torch and of Lightning do.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from resnet18.class_paths import import_object
from resnet18.config_values import GROUPS
from resnet18.names import classes_below, hint
from resnet18.parser import innermost, parameter_names


def fault(
    error: Exception, config: Namespace, key: str, raised: tuple[Exception, type, dict[str, Any]] | None
) -> tuple[str, str | None, str]:
    """The key of the class that an error is about, the argument of it where that is certain, and what to say.

    Args:
        error: What was raised.
        config: The configuration, parsed.
        key: What was being made or used.
        raised: See :attr:`resnet18.parser.Parser.raised`.
    """
    made = GROUPS.get(key) or import_object(str(config.get(f"{key}.class_path")))
    given = config.get(f"{key}.init_args") or config.get(key) or {}
    if raised and str(raised[0]) in str(error):  # jsonargparse tells of it in an error of its own
        error, made, given = raised
        key = _key_of(config, made, given) or key
    text = innermost(str(error))
    if text.startswith("backbone_lr_scale "):  # the model's, which its optimizer and its schedule have to bear
        return "model", "backbone_lr_scale", text
    if "invalid strategy name" in text:
        names = [*StrategyRegistry.available_strategies(), *classes_below(Strategy)]
        text = f"there is no strategy {given['strategy']}{hint(given['strategy'], names)}"
        return key, "strategy", text
    if isinstance(error, ZeroDivisionError):
        zeros = [name for name in parameter_names(made) if given.get(name) == 0 and given.get(name) is not False]
        return key, zeros[0] if len(zeros) == 1 else None, f"must not be 0: {text}"
    return key, _argument(text, made, given) if made else None, text


def _key_of(config: Namespace, made: type, given: Mapping[str, Any]) -> str | None:
    """The key of a class that was made with these arguments; of several that are alike the first."""
    alike = [
        (key, values)
        for key, values in _classes(config, "")
        if made is GROUPS.get(key) or made is import_object(str(values.get("class_path")))
    ]
    for key, values in alike:
        values = values.get("init_args") or {}
        if all(given.get(name, value) == value for name, value in values.items() if _is_plain(value)):
            return key
    return alike[0][0] if alike else None


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


def _classes(config: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Everything in a configuration that is made, with its key: the groups, and what has a class path."""
    if isinstance(config, Namespace):
        if key in GROUPS or "class_path" in config:
            yield key, config
        for name, value in vars(config).items():
            yield from _classes(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from _classes(value, f"{key}[{number}]")


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | None)
