"""Configuration files: read, and looked over for what YAML and jsonargparse let pass or explain badly.

YAML's readers take the last of two equal keys in silence. jsonargparse knows a class by its ``class_path`` alone: where
that is misspelt, or something stands beside it, the message tells of types and not of the key.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from resnet18.errors import UsageError, hint

GROUPS = ("model", "trainer", "best", "last")
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


LINKED = {
    **{f"model.{name}": f"data.{name}" for name in ("num_classes", "mean", "std", "class_names", "input_size")},
    "model.backbone.num_classes": "data.num_classes",
    "data.seed": "seed_everything",
}
"""Keys whose values come from others: what is given for them would be dropped in silence."""


class _Refused(yaml.MarkedYAMLError):
    """What is YAML, but no configuration."""


class _Loader(yaml.SafeLoader):
    """Takes each key once, and no value that holds itself."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _look_over(node, "", (), set())
        return node


def _look_over(node: Any, key: str, above: tuple[Any, ...], done: set[int]) -> None:
    if node in above:
        raise _Refused(problem=f"{shown(key)} holds itself", problem_mark=node.start_mark)
    if id(node) in done:  # an alias of what was seen: there may be very many
        return
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            inner = f"{key}.{name.value}".lstrip(".")
            if isinstance(name, yaml.ScalarNode) and name.value in lines:
                problem = f"{shown(inner)} is given twice, first in line {lines[name.value]}"
                raise _Refused(problem=problem, problem_mark=name.start_mark)
            if isinstance(name, yaml.ScalarNode):
                lines[name.value] = name.start_mark.line + 1
            _look_over(value, inner, (*above, node), done)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _look_over(value, f"{key}[{number}]", (*above, node), done)
    done.add(id(node))


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file's content.

    Raises:
        UsageError: Where the file is missing, is not YAML, is not a mapping or has a key twice; says which line.
    """
    try:
        content = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        siblings = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UsageError(f"there is no {path}{hint(str(path), siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from None
    except RecursionError:
        raise UsageError(f"{path} can't be read: its brackets are nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise UsageError(
            f"{where}: {problem}" if isinstance(error, _Refused) else f"{where}: not valid YAML: {problem}"
        ) from None
    if content is None:
        raise UsageError(f"{path} is empty; it should hold keys and values")
    if not isinstance(content, dict):
        raise UsageError(f"{path} should hold keys and values, not {type(content).__name__}")
    return content


def check_file(content: dict[str, Any], where: str) -> None:
    """Looks at a file's groups, and at every class it names: is it described by the keys for that, and no other?

    Args:
        content: A file's.
        where: The file, for the message.

    Raises:
        UsageError: With file and key.
    """
    for name in GROUPS:
        if not isinstance(content.get(name, {}), dict):
            raise UsageError(f"{where}: {name} should hold keys and values, not {_told(content[name])}")
    if content.get("data", "") is None:
        raise UsageError(f"{where}: data should name a class of data, not nothing")
    for key, _ in leaves(content):
        name = without_numbers(shown(key))
        if source := LINKED.get(name):
            raise UsageError(f"{where}: {name} can't be given; it is taken from {source}")
    _check_classes(content, where, "")


def _check_classes(content: Any, where: str, key: str) -> None:
    if isinstance(content, list):
        for number, value in enumerate(content):
            if isinstance(value, dict) and "init_args" in value:
                _check_class(value, where, f"{key}[{number}]", whole=True)
            _check_classes(value, where, f"{key}[{number}]")
    elif isinstance(content, dict):
        if content.keys() & {"class_path", "init_args"}:
            _check_class(content, where, key, whole=False)
        for name, value in content.items():
            inner = f"{key}.{name}".lstrip(".")
            if not isinstance(name, str) and (key.count(".") == 0 or key.endswith("init_args")):
                raise UsageError(f"{where}: {shown(inner)}: a key should be a word")
            _check_classes(value, where, inner)


def check_class_at(content: Any, where: str, key: str) -> None:
    """The same for a key that was refused: a mapping there has to describe a class, and the whole of it.

    Raises:
        UsageError: With file and key; nothing is said of a value that is no mapping.
    """
    for place, value in _mappings(content, ""):
        if without_numbers(place) == without_numbers(key):
            _check_class(value, where, place, whole=True)


def _mappings(content: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        yield key, content
        for name, value in content.items():
            yield from _mappings(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _mappings(value, f"{key}[{number}]")


def _check_class(value: dict[str, Any], where: str, key: str, whole: bool) -> None:
    for name in value:
        advice = hint(str(name), CLASS_KEYS)
        if name not in CLASS_KEYS and (advice or "class_path" in value):
            advice = advice or "; the arguments of a class belong in its init_args"
            raise UsageError(f"{where}: {shown(key)}.{name}: there is no such key{advice}")
    if whole and "class_path" not in value:
        raise UsageError(f"{where}: {shown(key)}.class_path must be given")
    if not isinstance(value.get("class_path", ""), str):
        raise UsageError(f"{where}: {shown(key)}.class_path should name a class, not {_told(value['class_path'])}")
    for name in ("init_args", "dict_kwargs"):
        if not isinstance(value.get(name) or {}, dict):
            raise UsageError(f"{where}: {shown(key)}: {name} should hold keys and values, not {_told(value[name])}")


def _told(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a configuration that hold values, and the values."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list) and config:
        for number, value in enumerate(config):
            yield from leaves(value, f"{key}[{number}]")
    else:
        yield key, config


def shown(key: str) -> str:
    """A dotted key as one would type it."""
    return key.replace(".init_args", "")


def nested(key: str) -> str:
    """A dotted key as a file has it, as the end of a sentence."""
    group, *parts = key.split(".")
    if not parts or group not in GROUPS:
        return ""
    return f"; in a file it is {group}: {''.join(f'{{{part}: ' for part in parts)}…{'}' * len(parts)}"


def without_numbers(key: str) -> str:
    """A dotted key without the places in lists, of which the parser's messages say nothing."""
    return re.sub(r"\[\d+\]", "", key)
