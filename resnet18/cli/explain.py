"""The command line's parser, whose errors take a few lines instead of seventy lines of usage.

An error says which key is at fault, what was expected, and the nearest right name; jsonargparse's own messages hold all
of this but the last, between dumps of types and values.
"""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from resnet18.classifier import Classifier
from resnet18.cli.config_files import CLASS_KEYS, shown
from resnet18.cli.help import plain
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import UsageError, classes_below, hint
from resnet18.storage.class_paths import KINDS, KINDS_IN_WORDS, import_object, parameter_names

WIDTH = 240  # of a line of someone else's message
GROUPS = {"model": Classifier, "trainer": Trainer, "best": BestCheckpoint, "last": LastCheckpoint}


class KeyedError(UsageError):
    """A usage error and the dotted key it is about, if that is known."""

    unclear = False  # whether the parser says no more than that it could not make a class of the value

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{shown(key)}: {text}" if key else text)
        self.key = key


class MissingError(KeyedError):
    """Required keys that nothing gives; ``key`` is the class that they belong to, if it is one's."""

    def __init__(self, key: str, names: list[str]) -> None:
        super().__init__("", f"{', '.join(shown(f'{key}.{name}'.lstrip('.')) for name in names)} must be given")
        self.key = key


class Parser(LightningArgumentParser):
    """Raises :class:`KeyedError` where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # or `--trainer.max_epoch 3` is taken, in silence, for max_epochs
        super().__init__(*args, **kwargs)
        self.model_class: type = Classifier
        self.dropped_links: set[str] = set()  # targets of what Lightning would note as a hyper-parameter
        self.raised: tuple[Exception, type, dict[str, Any]] | None = None  # by a class that was made, from what

    def add_instantiator(
        self, instantiator: Callable[..., Any], class_type: type, subclasses: bool = True, prepend: bool = False
    ) -> None:
        """As jsonargparse's; and notes which class raised, also where it is made later, as optimizers are."""

        def noted(kind: type, *args: Any, applied_instantiation_links: dict[str, Any], **given: Any) -> Any:
            links = {key: one for key, one in applied_instantiation_links.items() if key not in self.dropped_links}
            try:
                return instantiator(kind, *args, applied_instantiation_links=links, **given)
            except Exception as error:
                self.raised = error, kind, given
                raise

        super().add_instantiator(noted, class_type, subclasses=subclasses, prepend=prepend)

    def add_function_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        # jsonargparse 4.53 hands a function the links of a class, which it then does not take.
        kwargs.pop("linked_targets", None)
        return super().add_function_arguments(*args, **kwargs)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """As jsonargparse's; and names the model's class, unless it is :class:`Classifier`."""
        text = super().dump(*args, **kwargs)
        if self.model_class is Classifier:
            return text
        config = yaml.safe_load(text)
        path = f"{self.model_class.__module__}.{self.model_class.__qualname__}"
        config["model"] = {"class_path": path, "init_args": config["model"]}
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return plain(super().format_help(formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser: the outer one reports
            super().error(message, ex)
        options = [option[2:] for action in self._actions for option in action.option_strings if option[:2] == "--"]
        raise explain(message, options)


def make(kind: type, *args: Any, applied_instantiation_links: dict[str, Any], **given: Any) -> Any:
    """An instantiator that does no more than that."""
    return kind(*args, **given)


def refuse_nulls(parser: LightningArgumentParser, config: Namespace) -> None:
    """Checks that null stands only where it is one of the values that are taken; jsonargparse takes it anywhere.

    Raises:
        KeyedError: For the first one that is not.
    """
    config = config.clone()
    config.pop("model.backbone.init_args.num_classes", None)  # linked: to come
    set_parsing_settings(unset_sentinel=True)  # null is now a value like others
    try:
        parser.validate(config, skip_required=True)
    except TypeError as error:
        parser.error(str(error))
    finally:
        set_parsing_settings(unset_sentinel=False)


def explain(message: str, options: Iterable[str], key: str = "") -> KeyedError:
    """What an error message of jsonargparse says, in a line or two.

    Args:
        message: The message.
        options: The parser's own keys; those of a class in the configuration are found from its class path.
        key: What it is about, where the message does not say.
    """
    message = message.replace("\x1b[0m", "")
    key = key or ".".join(re.findall(r'Parser key "([^"]+)"', message))

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
    error = KeyedError(key, innermost(message))
    error.unclear = True
    return error


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
    if made in KINDS:  # what is taken to be meant where no class is named
        return MissingError(key, ["class_path"])
    near = hint(name, (*parameter_names(made), *CLASS_KEYS))
    return KeyedError(f"{key}.{name}".lstrip("."), f"{class_path[0].rpartition('.')[2]} takes no {name}{near}")


def _import_error(found: Callable[[str], list[str]]) -> str:
    """What is wrong with a class path; nothing where that is not at fault."""
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
RANGES = {  # of pydantic's, for what is Annotated with a Field
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than or equal to": "at most",
    "less than": "below",
}


def _value_error(message: str) -> str:
    """What was expected instead of a value; nothing where the message does not say."""
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
    """What a word that stands alone on the command line is likely to be, as the end of a sentence."""
    if word.endswith((".yaml", ".yml")):
        return f"; a configuration is given by --config {shlex.quote(word)}"
    if word.endswith(".ckpt") or (Path(word) / "config.yaml").is_file():
        return f"; a run or a checkpoint is given by --ckpt_path {shlex.quote(word)}"
    return ""


def innermost(message: str) -> str:
    """What a message of many lines says, in three at the most."""
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
    """A line of no more than :data:`WIDTH` characters: whole sentences, or else whole words."""
    if len(line) <= WIDTH:
        return line
    if sentences := re.match(rf".{{80,{WIDTH}}}[.!?](?= )", line):
        return sentences[0]
    return f"{line[:WIDTH].rpartition(' ')[0]} …"
