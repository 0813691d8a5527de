"""The command line's parser: no abbreviations, and errors of a few lines instead of seventy lines of usage.

An error says which key is at fault, what was expected, and the nearest right name; jsonargparse's own messages hold all
of this but the last, between dumps of types and values.
"""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from resnet18.classifier import Classifier
from resnet18.cli.config_files import CLASS_KEYS, shown
from resnet18.cli.help import plain
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import UsageError, classes_below, hint
from resnet18.storage.class_paths import KINDS, import_object

_WIDTH = 240
GROUPS = {"model": Classifier, "trainer": Trainer, "best": BestCheckpoint, "last": LastCheckpoint}


class KeyedError(UsageError):
    """A usage error and the dotted key it is about, if that is known.

    ``unclear`` is set where the parser says no more than that this is no class that it could make.
    """

    unclear = False

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
        self.raised: tuple[Exception, type, dict[str, Any]] | None = None
        """The last error of a class that was made, the class, and what it was given."""

    def add_instantiator(
        self, instantiator: Callable[..., Any], class_type: type, subclasses: bool = True, prepend: bool = False
    ) -> None:
        """As jsonargparse's; and notes which class raised, also where it is made later, as optimizers are."""

        def noted(kind: type, *args: Any, applied_instantiation_links: dict[str, Any], **given: Any) -> Any:
            try:
                return instantiator(kind, *args, applied_instantiation_links=applied_instantiation_links, **given)
            except Exception as error:
                self.raised = error, kind, given
                raise

        super().add_instantiator(noted, class_type, subclasses=subclasses, prepend=prepend)

    def add_function_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        # jsonargparse 4.53 hands a function the links of a class, which it then does not take.
        kwargs.pop("linked_targets", None)
        return super().add_function_arguments(*args, **kwargs)

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


def explain(message: str, options: Iterable[str]) -> KeyedError:
    """What an error message of jsonargparse says, in a line or two.

    Args:
        message: The message.
        options: The parser's own keys; those of a class in the configuration are found from its class path.
    """
    message = message.replace("\x1b[0m", "")
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return _unknown_key(f"{found[1]}.{found[2]}", options)
    if found := re.search(r"unrecognized arguments: -*(([^\s=]+).*)", message):
        word = (
            found[1] if Path(found[1]).exists() else found[2]
        )  # of several words the first, but a path may be several
        return KeyedError("", f"there is no option {word}" + (_meant_by(word) or hint(word, options)))
    if found := re.search(r"does not accept option '([\w.]+)'", message):
        return _unknown_key(found[1], options)
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        path = re.search(r"class_path[ =]'([\w.]+)'", message)
        name = f"{key}.{found[1]}" if key else found[1]
        if path and import_object(path[1]) in KINDS:  # what is taken to be meant where no class is named
            return MissingError(key, ["class_path"])
        return KeyedError(name, _unknown_argument(found[1], path[1] if path else None))
    if found := re.search(r"Call to compute_fn of link '\w+\(([\w.]+)\) .* failed: (.+)", message):
        return KeyedError(found[1], found[2])
    if found := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return KeyedError(key, f"{found[1]} is not a model, optimizer, schedule, data source, logger or callback")
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return KeyedError(key, f"{found[1]} has no {found[2]}" + hint(found[2], dir(importlib.import_module(found[1]))))
    if found := re.search(r"(?:class_path '([\w.]+)'[\s\S]*)?No module named '([\w.]+)'", message):
        if found[1] and not f"{found[1]}.".startswith(f"{found[2]}."):
            return KeyedError(key, f"{found[1]} imports {found[2]}, which is not installed")
        return KeyedError(key, f"there is no module {found[2]}" + hint(found[2], _modules(found[2])))
    if found := re.search(r"arguments are required: (.+)", message):
        return MissingError(key, found[1].rstrip(".").split(", "))
    if found := re.search(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)", message):
        return KeyedError(key, _of_another_kind(found[1], found[2]))
    if found := re.search(r"Expected a dot import path string: ([A-Z]\w*)$", message, re.MULTILINE):
        return KeyedError(key, f"there is no class {found[1]}" + hint(found[1], classes_below(*KINDS)))
    expected = [text for text in _expected(message) if text not in ("None", "a dot import path")]
    value = _given_value(message)
    if expected and value is not None:
        choices = [choice.strip(" '") for text in expected for choice in text.split(",")]
        return KeyedError(key, f"expected {' or '.join(expected)}, not {value!r}" + hint(value, choices))
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return KeyedError(key, f"there is no class {found[1]}" + hint(found[1], classes_below(*KINDS)))
    if found := re.search(r"import path for object <module '([\w.]+)'", message):
        return KeyedError(key, f"{found[1]} is a module; a class in it is wanted")
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
    return KeyedError(name, "there is no such key" + hint(name, options))


def _unknown_argument(name: str, class_path: str | None) -> str:
    if class_path is None:
        return "there is no such key"
    names = parameter_names(import_object(class_path))
    return f"{class_path.rpartition('.')[2]} takes no {name}" + hint(name, (*names, *CLASS_KEYS))


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
    for pattern in (r"Got value: (.*)", r"Expected a path but (.+) either", r"Given value: (.+)"):
        found = [value.partition(". Got value: ")[0] for value in re.findall(pattern, message)]
        found = [value for value in found if not value.startswith(("Namespace(", "[Namespace(", "{'class_path'"))]
        if found:
            return found[-1].strip()[:80]
    return None


def innermost(message: str) -> str:
    """What a message of many lines says, in three at the most."""
    if missing := re.findall(r"Requirement '([^']+)' not met", message):  # any of several
        return f"it needs {missing[-1]}, which is not installed: pip install '{missing[-1]}'"
    lines = [" ".join(line.split()).removeprefix("- ") for line in message.splitlines() if line.strip()]
    noise = (
        *("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>"),
        *("Not a valid subclass", "Subclass types expect", "a class path (str)", "a dict with", "Problem with given"),
        "Expected a path but",
    )
    telling = [line for line in lines if not line.startswith(noise)] or lines
    return "\n".join(map(_cut, telling[:3]))


def _cut(line: str) -> str:
    """A line of no more than :data:`_WIDTH` characters: whole sentences, or else whole words."""
    if len(line) <= _WIDTH:
        return line
    if sentences := re.match(rf".{{80,{_WIDTH}}}[.!?](?= )", line):
        return sentences[0]
    return f"{line[:_WIDTH].rpartition(' ')[0]} …"


def _modules(name: str) -> list[str]:
    """Those that a module's name may stand for: of the same package, or in the working directory."""
    package = name.rpartition(".")[0]
    if package:
        return [module for module in sys.modules if module.rpartition(".")[0] == package]
    return [path.stem for path in Path.cwd().glob("*.py")]


def _meant_by(word: str) -> str:
    """What a word that stands alone on the command line is likely to be, as the end of a sentence."""
    if word.endswith((".yaml", ".yml")):
        return f"; a configuration is given by --config {shlex.quote(word)}"
    if word.endswith(".ckpt") or (Path(word) / "config.yaml").is_file():
        return f"; a run or a checkpoint is given by --ckpt_path {shlex.quote(word)}"
    return ""


def _of_another_kind(path: str, kind: str) -> str:
    made = import_object(path)
    if isinstance(made, type) or not callable(made):
        return f"{path} is not a subclass of {kind}"
    module = "nn.Module" if kind == "Module" else kind
    if "return" in getattr(made, "__annotations__", {}):
        return f"{path} does not return {module}"
    arguments = "num_classes: int" if kind == "Module" else "…"
    return f"{path} has to say what it returns: def {made.__name__}({arguments}) -> {module}"


def fault(
    error: Exception, config: Namespace, key: str, raised: tuple[Exception, type, dict[str, Any]] | None
) -> tuple[str, str | None, str]:
    """The key of the class that an error is about, the argument of it where that is certain, and what to say.

    Args:
        error: What was raised.
        config: The configuration, parsed.
        key: What was being made or used.
        raised: See :attr:`resnet18.cli.explain.Parser.raised`.
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
