"""Which key of a configuration an error is about.

The key of the class that raised it, or of one of its arguments where the message opens with that argument's name, as
those of this project, of torch and of Lightning do.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from resnet18.class_paths import import_object
from resnet18.config_values import GROUPS
from resnet18.parser import parameter_names


def class_at(config: Namespace, key: str) -> Any:
    """The class or function that a key stands for; None where there is none."""
    return GROUPS.get(key) or import_object(str(config.get(f"{key}.class_path")))


def key_of(config: Namespace, made: type, given: Mapping[str, Any]) -> str | None:
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


def argument_at_fault(text: str, made: Any, values: Any) -> str | None:
    """The argument of a class that its error is about, if that is certain.

    Args:
        text: What it says.
        made: The class or function, or None.
        values: The arguments that it was given.
    """
    if made is None:
        return None
    names = parameter_names(made)
    values = {name: values.get(name) for name in names}
    if text.startswith("must not be 0"):
        zeros = [name for name, value in values.items() if value == 0 and not isinstance(value, bool)]
        return zeros[0] if len(zeros) == 1 else None
    text = re.sub(r"^Invalid (learning rate)?", lambda found: "lr" if found[1] else "", text)  # torch's
    if (first := re.match(r"\W*(\w+)", text)) and first[1] in names:
        return first[1]
    if made is Trainer:  # all of its messages are Lightning's, and name an option anywhere, or its value
        given = {name: value for name, value in values.items() if value is not None}
        for wanted in ([f"{name}=" for name in given], given, given.values()):
            for name, word in zip(given, wanted, strict=True):
                if isinstance(word, str) and re.search(rf"\b{re.escape(word)}", text):
                    return name
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
