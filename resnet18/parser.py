"""The command line's parser: no abbreviations, and errors of a few lines instead of seventy lines of usage.

An error says which key is at fault, what was expected, and the nearest right name; jsonargparse's own messages hold all
of this but the last, between dumps of types and values.
"""

import difflib
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from resnet18.class_paths import KINDS, import_object
from resnet18.errors import UsageError

_WIDTH = 240


class KeyedError(UsageError):
    """A usage error and the dotted key it is about, if that is known."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{shown(key)}: {text}" if key else text)
        self.key = key


class Parser(LightningArgumentParser):
    """Raises :class:`KeyedError` where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # or `--trainer.max_epoch 3` is taken, in silence, for max_epochs
        super().__init__(*args, **kwargs)

    def add_function_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        # jsonargparse 4.53 hands a function the links of a class, which it then does not take.
        kwargs.pop("linked_targets", None)
        return super().add_function_arguments(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser: the outer one reports
            super().error(message, ex)
        options = [option[2:] for action in self._actions for option in action.option_strings if option[:2] == "--"]
        raise explain(message, options)


def shown(key: str) -> str:
    """A dotted key as one would type it."""
    return key.replace(".init_args", "")


def explain(message: str, options: Iterable[str]) -> KeyedError:
    """What an error message of jsonargparse says, in a line or two.

    Args:
        message: The message.
        options: The parser's own keys; those of a class in the configuration are found from its class path.
    """
    message = message.replace("\x1b[0m", "")
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        name = f"{found[1]}.{found[2]}"
        return KeyedError(name, "there is no such key" + hint(name, options))
    if found := re.search(r"unrecognized arguments: -*([^\s=]+)", message):
        return KeyedError("", f"there is no option {found[1]}" + hint(found[1], options))
    if found := re.search(r"does not accept option '([\w.]+)'", message):
        return KeyedError(found[1], "there is no such key" + hint(found[1], options))
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        path = re.search(r"class_path[ =]'([\w.]+)'", message)
        name = f"{key}.{found[1]}" if key else found[1]
        return KeyedError(name, _unknown_argument(found[1], path[1] if path else None))
    if found := re.search(r"Call to compute_fn of link .* failed: (.+)", message):
        return KeyedError(key, found[1])
    if found := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return KeyedError(key, f"{found[1]} is not a model, optimizer, schedule, data source, logger or callback")
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return KeyedError(key, f"{found[1]} has no {found[2]}" + hint(found[2], dir(importlib.import_module(found[1]))))
    if found := re.search(r"No module named '([\w.]+)'", message):
        return KeyedError(key, f"there is no module {found[1]}")
    if found := re.search(r"arguments are required: (.+)", message):
        given = key or "missing"
        return KeyedError("" if given == "missing" else key, f"{found[1].rstrip('.')} must be given; see configs/")
    expected = [text for text in _expected(message) if text not in ("None", "a dot import path")]
    value = _given_value(message)
    if expected and value is not None:
        choices = [choice.strip(" '") for text in expected for choice in text.split(",")]
        return KeyedError(key, f"expected {' or '.join(expected)}, not {value!r}" + hint(value, choices))
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return KeyedError(key, f"there is no class {found[1]}" + hint(found[1], _class_names()))
    return KeyedError(key, _innermost(message))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is likest, where one is like it at all; dotted names are compared by their last part too."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return close[0]
    by_ending = {candidate.rpartition(".")[2]: candidate for candidate in known}
    close = difflib.get_close_matches(name.rpartition(".")[2], by_ending, n=1, cutoff=0.6)
    return by_ending[close[0]] if close else None


def hint(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near and near != name else ""


def _unknown_argument(name: str, class_path: str | None) -> str:
    if class_path is None:
        return "there is no such key"
    names = parameter_names(import_object(class_path))
    return f"{class_path.rpartition('.')[2]} takes no {name}" + hint(name, names)


def parameter_names(made: Any) -> list[str]:
    """The parameters of a class or function that a configuration can give, those behind ``**kwargs`` included."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(made, type) else parser.add_function_arguments
    return add(made, fail_untyped=False)


def _expected(message: str) -> Iterator[str]:
    for kind in re.findall(r"Expected a (<class '[\w.]+'>|typing\.Literal\[[^\]]*\]|dot import path)", message):
        if kind.startswith("typing"):
            yield kind[len("typing.Literal[") : -1]
        else:
            name = kind.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
            if name == "dot import path":
                name = "a dot import path"
            yield {"NoneType": "None", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
                name, name
            )


def _given_value(message: str) -> str | None:
    for pattern in (r"Got value: (.+)", r"Expected a path but (.+) either", r"Given value: (.+)"):
        found = re.findall(pattern, message)
        if found and not found[-1].startswith("Namespace("):
            return found[-1].strip()[:80]
    return None


def _innermost(message: str) -> str:
    lines = [" ".join(line.split()).removeprefix("- ") for line in message.splitlines() if line.strip()]
    noise = ("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
    telling = [line for line in lines if not line.startswith(noise)] or lines
    return "\n".join(line if len(line) <= _WIDTH else f"{line[:_WIDTH]} …" for line in telling[:3])


def _class_names() -> list[str]:
    def below(kind: type) -> Iterator[type]:
        for subclass in kind.__subclasses__():
            yield subclass
            yield from below(subclass)

    return sorted({kind.__name__ for root in KINDS for kind in below(root) if not kind.__name__.startswith("_")})


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


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file's content.

    Raises:
        UsageError: Where the file is missing, is not YAML, or is not a mapping; says which line.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        siblings = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UsageError(f"there is no {path}{hint(str(path), siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} should hold keys and values, not {type(content).__name__}")
    return content
