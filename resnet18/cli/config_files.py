"""Reads configuration files, and finds mistakes that YAML and jsonargparse let pass or explain badly.

YAML readers silently take the last of two equal keys. Where a ``class_path`` is misspelt or has other keys beside it,
jsonargparse's message names types and not the key.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from resnet18.engine.inputs import DESCRIBED
from resnet18.errors import UsageError, hint

GROUPS = ("model", "trainer", "best", "last")
KEYS = (
    *("seed_everything", "data", "experiment", "init_from", "run_dir", "ckpt_path"),
    *("flip_tta", "images", "output", "topk", "embeddings", "report"),
    *GROUPS,
)
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
LINKED = {  # these keys take others' values; jsonargparse would silently drop what is given
    **{f"model.{name}": f"data.{name}" for name in DESCRIBED},
    "model.backbone.num_classes": "data.num_classes",
    "data.seed": "seed_everything",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a configuration file; refuses one that is no mapping or has a key twice, with the line."""
    try:
        text = path.read_text()
        _check_keys(yaml.compose(text, yaml.SafeLoader), "", ())
        content = yaml.safe_load(text)
    except FileNotFoundError:
        siblings = [str(other) for other in path.parent.glob("*.yaml")]
        raise UsageError(f"there is no {path}{hint(str(path), siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from None
    except RecursionError:
        raise UsageError(f"{path} can't be read: its brackets are nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise UsageError(f"{where}: not valid YAML: {problem}") from None
    if content is None:
        raise UsageError(f"{path} is empty; it should hold keys and values")
    if not isinstance(content, dict):
        raise UsageError(f"{path} should hold keys and values, not {type(content).__name__}")
    return _grouped(content, path)


def _grouped(content: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Dotted keys, which W&B writes for a sweep's trial, moved into the groups that they name."""
    grouped: dict[Any, Any] = {}
    for key, value in sorted(content.items(), key=lambda one: str(one[0]).count(".")):  # a group before its keys
        *groups, name = key.split(".") if isinstance(key, str) else [key]
        place: dict[Any, Any] = grouped
        for group in groups:
            inner = place.get(group, {})
            if not isinstance(inner, dict | str):
                raise UsageError(f"{path}: {key} can't be set: {group} is {'null' if inner is None else inner}")
            # A text names the class that the key is an argument of.
            place[group] = {"class_path": inner} if isinstance(inner, str) else inner
            place = place[group]
        place[name] = value
    return grouped


def _check_keys(node: yaml.Node | None, key: str, above: tuple[yaml.Node, ...]) -> None:
    if node in above:
        raise yaml.MarkedYAMLError(problem=f"{shown(key)} holds itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _check_keys(value, f"{key}[{number}]", (*above, node))
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            inner = f"{key}.{name.value}".lstrip(".")
            if inner in lines:
                problem = f"{shown(inner)} is given twice, first in line {lines[inner]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=name.start_mark)
            lines[inner] = name.start_mark.line + 1
            _check_keys(value, inner, (*above, node))


def check_file(content: dict[str, Any], where: str) -> None:
    """Checks a file's groups and the keys that describe its classes; ``where`` is its name for the message."""
    for name in content:
        if name not in KEYS:
            raise UsageError(f"{where}: {name}: there is no such key{hint(str(name), KEYS)}")
    for name in GROUPS:
        if not isinstance(content.get(name, {}), dict):
            raise UsageError(f"{where}: {name} should hold keys and values, not {content[name] or 'null'}")
    if content.get("data", "") is None:
        raise UsageError(f"{where}: data should name a class of data, not null")
    for key, value in _walk(content):
        if source := LINKED.get(without_numbers(shown(key))):
            raise UsageError(f"{where}: {shown(key)} can't be given; it is taken from {source}")
        if not isinstance(value, dict):
            continue
        if value.keys() & {"class_path", "init_args"}:
            _check_class(value, where, shown(key))
        for name in value:
            if not isinstance(name, str) and ("." not in key or key.endswith(".init_args")):
                raise UsageError(f"{where}: {shown(key)}.{name}: a key should be a word")


def _check_class(value: dict[Any, Any], where: str, key: str) -> None:
    for name in value:
        advice = hint(str(name), CLASS_KEYS)
        if name not in CLASS_KEYS and (advice or "class_path" in value):
            advice = advice or "; the arguments of a class belong in its init_args"
            raise UsageError(f"{where}: {key}.{name}: there is no such key{advice}")
    if not isinstance(value.get("class_path", ""), str):
        raise UsageError(f"{where}: {key}.class_path should name a class, not {value['class_path']!r}")
    for name in ("init_args", "dict_kwargs"):
        if not isinstance(value.get(name) or {}, dict):
            raise UsageError(f"{where}: {key}.{name} should hold keys and values, not {value[name]!r}")


def _walk(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value with its dotted key, mappings and lists before their contents."""
    if isinstance(config, Namespace):
        config = vars(config)
    if key:
        yield key, config
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _walk(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from _walk(value, f"{key}[{number}]")


def leaves(config: Any) -> Iterator[tuple[str, Any]]:
    """The dotted keys of a configuration with their values, without mappings and lists."""
    return ((key, value) for key, value in _walk(config) if value in ({}, []) or not isinstance(value, dict | list))


def shown(key: str) -> str:
    """A dotted key as typed on the command line."""
    return key.replace(".init_args", "")


def without_numbers(key: str) -> str:
    """A dotted key without list indices, which the parser's messages leave out."""
    return re.sub(r"\[\d+\]", "", key)
