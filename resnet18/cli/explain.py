"""Shortens jsonargparse's errors to the key at fault, what was expected, and the nearest right name.

They hold this between dumps of types and values. jsonargparse has no errors with fields, so the text is searched.
"""

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from resnet18.cli.config_files import CLASS_KEYS, shown, without_numbers
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import UsageError, classes_below, hint
from resnet18.storage.class_paths import KINDS, KINDS_IN_WORDS, callables, import_object, parameter_names
from resnet18.storage.networks import takes_num_classes

WIDTH = 240  # characters a line


class KeyedError(UsageError):
    """A usage error and its dotted key, empty if unknown."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{shown(key)}: {text}" if key else text)
        self.key = key


class MissingError(KeyedError):
    """Required keys that are missing; ``key`` is that of the class they belong to, empty at the top."""

    def __init__(self, key: str, names: list[str]) -> None:
        super().__init__("", f"{', '.join(shown(f'{key}.{name}'.lstrip('.')) for name in names)} must be given")
        self.key = key


def explain(message: str, options: Iterable[str], key: str = "") -> KeyedError:
    """Shortens an error message of jsonargparse to a line or two.

    ``options`` are the parser's own keys; ``key`` is the key at fault, where the message does not name it.
    """
    message = message.replace("\x1b[0m", "")
    # Each type of a Union repeats the keys below it.
    key = key or ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))

    def found(pattern: str) -> list[str]:
        match = re.search(pattern, message, re.MULTILINE)
        return [group or "" for group in match.groups()] if match else []

    if names := found(r"(?:Group '([\w.]+)' )?does not accept option '([\w.]+)'"):
        return _unknown_key(".".join(filter(None, names)), options)
    if words := found(r"unrecognized arguments: -*(([^\s=]+).*)"):
        word = words[0] if Path(words[0]).exists() else words[1]  # the first of several, or a path with spaces
        return KeyedError("", f"there is no option {word}{_option_for(word) or hint(word, options)}")
    if names := found(r"Option '([\w.]+)' is not accepted"):
        return _unknown_argument(key, names[0], found(r"class_path[ =]'([\w.]+)'"))
    if names := found(r"arguments are required: (.+)"):
        return MissingError(key, names[0].rstrip(".").split(", "))
    if texts := found(r"Call to compute_fn of link '\w+\(([\w.]+)\) .* failed: (.+)"):
        return KeyedError(*texts)
    if text := _import_error(found):
        return KeyedError(key, text)
    if text := _value_error(message):
        return KeyedError(key, text)
    if names := found(r"Expected a dot import path string: (\S+)"):
        return KeyedError(key, f"there is no class {names[0]}{hint(names[0], classes_below(*KINDS))}")
    if names := found(r"import path for object <module '([\w.]+)'"):
        return KeyedError(key, f"{names[0]} is a module; a class in it is wanted")
    value = _given_value(message)
    if value is not None and value[:1] in {*"[0123456789", "-"}:
        return KeyedError(key, f"expected a class, not {value}")
    return KeyedError(key, innermost(message))


def _unknown_key(key: str, options: Iterable[str]) -> KeyedError:
    options = list(options)
    parts = shown(key).split(".")
    for length in range(1, len(parts) + 1):  # a misspelt group's keys are all unknown: the group is at fault
        name = ".".join(parts[:length])
        if not any(f"{option}.".startswith(f"{name}.") for option in options):
            break
    return KeyedError(name, f"there is no such key{hint(name, options)}")


def _unknown_argument(key: str, name: str, class_path: list[str]) -> KeyedError:
    if not class_path:
        return KeyedError(f"{key}.{name}".lstrip("."), "there is no such key")
    made = import_object(class_path[0])
    if made in KINDS and not hint(name, CLASS_KEYS):  # jsonargparse takes the base class where none is named
        return MissingError(key, ["class_path"])
    near = hint(name, (*parameter_names(made), *CLASS_KEYS))
    if not near and takes_num_classes(made) == "in kwargs":
        near = f"; dict_kwargs.{name} goes to its **kwargs"
    return KeyedError(f"{key}.{name}".lstrip("."), f"{class_path[0].rpartition('.')[2]} takes no {name}{near}")


def _import_error(found: Callable[[str], list[str]]) -> str:
    """Describes a class path that can't be imported, empty for other errors."""
    if names := found(r"Importing '([\w.]+)' is not allowed"):
        return f"{names[0]} is not {KINDS_IN_WORDS}"
    if names := found(r"module '([\w.]+)' has no attribute '(\w+)'"):
        return f"{names[0]} has no {names[1]}{hint(names[1], dir(importlib.import_module(names[0])))}"
    if names := found(r"(?:class_path '([\w.]+)'[\s\S]*)?No module named '([\w.]+)'"):
        path, module = names
        if path and not f"{path}.".startswith(f"{module}."):
            return f"{path} imports {module}, which is not installed"
        package = module.rpartition(".")[0]
        here = [file.stem for file in Path.cwd().glob("*.py")]
        known = [name for name in sys.modules if name.rpartition(".")[0] == package] if package else here
        return f"there is no module {module}{hint(module, known)}"
    if names := found(r"to a type\[[\w.]*?(\w+)\]. Got value: (\S+)"):
        return f"{names[1]} is not a subclass of {names[0]}"
    if names := found(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)"):
        path, kind = names
        made = import_object(path)
        if isinstance(made, type) or not callable(made):
            return f"{path} is not a subclass of {kind}"
        module = "nn.Module" if kind == "Module" else kind
        if "return" in getattr(made, "__annotations__", {}):
            return f"{path} does not return {module}"
        arguments = "num_classes: int" if kind == "Module" else "…"
        return f"{path} has to say what it returns: def {made.__name__}({arguments}) -> {module}"
    if names := found(r"Expected a dot import path string: ([A-Z]\w*)$"):
        return f"there is no class {names[0]}{hint(names[0], classes_below(*KINDS))}"
    return ""


IN_WORDS = {"NoneType": "null", "int": "a whole number", "float": "a number", "bool": "true or false"}
RANGES = {  # pydantic's words for the limits of a Field
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than or equal to": "at most",
    "less than": "below",
}


def _value_error(message: str) -> str:
    """Says what was expected instead of a value, empty where the message does not."""
    value = _given_value(message)
    if value is None:
        return ""
    given = "null" if value == "None" else repr(value)
    expected, kinds = [], re.findall(r"Expected a (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[([^\]]*)\])", message)
    for limit in re.findall(r"Input should be (.+?)(?:, unable to .*)? \[type=", message):
        for word, words in RANGES.items():
            if limit.startswith(f"{word} "):
                return f"must be {words} {limit.removeprefix(f'{word} ')}, not {value}"
        expected.append({"a valid integer": "a whole number", "a valid number": "a number"}.get(limit, limit))
    expected += [choices or IN_WORDS.get(name, name) for name, choices in kinds if name != "NoneType"]
    words = [choice.strip(" '") for text in expected for choice in text.split(",")]
    return f"expected {' or '.join(dict.fromkeys(expected))}, not {given}{hint(value, words)}" if expected else ""


def _given_value(message: str) -> str | None:
    for pattern in (r"Got value: (.*)", r"Expected a path but (.+) either", r"Given value: (.+)"):
        found = [value.partition(". Got value: ")[0] for value in re.findall(pattern, message)]
        parsed = ("Namespace(", "[Namespace(", "NestedArg(", "{'class_path'")
        found = [value for value in found if not value.startswith(parsed)]
        if found:
            return found[-1].strip()[:80]
    return None


def _option_for(word: str) -> str:
    """Suggests an option for a bare word on the command line, as the end of a sentence."""
    if word.endswith((".yaml", ".yml")):
        return f"; a configuration is given by --config {shlex.quote(word)}"
    if word.endswith(".ckpt") or (Path(word) / "config.yaml").is_file():
        return f"; a run or a checkpoint is given by --ckpt_path {shlex.quote(word)}"
    return ""


def innermost(message: str) -> str:
    """Keeps at most three informative lines of a message."""
    if missing := re.findall(r"Requirement '([^']+)' not met", message):  # any of several
        return f"it needs {missing[-1]}, which is not installed: pip install '{missing[-1]}'"
    lines = [" ".join(line.split()).removeprefix("- ") for line in message.splitlines() if line.strip()]
    noise = (
        *("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>"),
        *("Not a valid subclass", "Subclass types expect", "a class path (str)", "a dict with", "Problem with given"),
        *("Expected a path but", "For further information"),
    )
    telling = [line for line in lines if not line.startswith(noise)] or lines
    return "\n".join(map(_cut, telling[:3]))


def _cut(line: str) -> str:
    """Shortens a line to WIDTH characters, at the end of a sentence or of a word."""
    if len(line) <= WIDTH:
        return line
    if sentences := re.match(rf".{{80,{WIDTH}}}[.!?](?= )", line):
        return sentences[0]
    return f"{line[:WIDTH].rpartition(' ')[0]} …"


Raised = tuple[Exception, type, dict[str, Any]]  # by a class, with the class and its arguments


def fault(
    error: Exception, config: Namespace, key: str, model_class: type, raised: Raised | None
) -> tuple[str, str | None, str]:
    """Finds the key of the class that refused a value, the argument if that is certain, and the text.

    ``key`` is what was being made or used, ``config`` the parsed configuration.
    """
    groups = {"model": model_class, "trainer": Trainer, "best": BestCheckpoint, "last": LastCheckpoint}
    made = groups.get(key) or import_object(str(config.get(f"{key}.class_path")))
    given = config.get(f"{key}.init_args") or config.get(key) or {}
    if raised and str(raised[0]) in str(error):  # jsonargparse wraps it
        error, made, given = raised
        keys = [name for name, kind in groups.items() if kind is made]
        keys += [name.removesuffix(".class_path") for name, kind in callables(config) if kind is made]
        if len({without_numbers(name) for name in keys}) == 1:
            key = keys[0] if len(keys) == 1 else without_numbers(keys[0])  # any of a list may be at fault
    text = innermost(str(error))
    if text.startswith("backbone_lr_scale "):  # an argument of the model, refused by its optimizer and schedule
        return "model", "backbone_lr_scale", text
    if "invalid strategy name" in text:
        names = [*StrategyRegistry.available_strategies(), *classes_below(Strategy)]
        return key, "strategy", f"there is no strategy {given['strategy']}{hint(given['strategy'], names)}"
    names = parameter_names(made) if made else []
    if isinstance(error, ZeroDivisionError):
        zeros = [name for name in names if given.get(name) == 0 and given.get(name) is not False]
        return key, zeros[0] if len(zeros) == 1 else None, f"must not be 0: {text}"
    words = re.findall(r"\w+", text.replace("Invalid learning rate", "lr").removeprefix("Invalid "))  # torch's
    if made is Trainer:  # Lightning's messages name an option somewhere, or its value
        meant = {given[name]: name for name in names if isinstance(given.get(name), str)}
        return key, next((meant.get(word, word) for word in words if word in (*names, *meant)), None), text
    return key, words[0] if words and words[0] in names else None, text
