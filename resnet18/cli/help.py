"""What ``lightning COMMAND --help`` prints: the options that are reached for, and with ``--help all`` every one.

Names, types, defaults and texts are those of the parser, which has them from signatures and docstrings.
"""

import argparse
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from resnet18.cli import COMMANDS
from resnet18.cli.config_files import LINKED
from resnet18.data.base import ImageDataModule
from resnet18.errors import classes_below

WIDTH, LEFT = 80, 31  # columns of the page, and of the options on it
FIRST = ("config", "ckpt_path", "init_from", "experiment", "run_dir", "images", "output")  # and then the others
MACHINE = ("accelerator", "devices", "strategy", "precision")
TRAINER = {  # Lightning's options that a command makes use of, of those that are reached for
    "fit": (
        *("max_epochs", "max_steps", *MACHINE, "accumulate_grad_batches", "gradient_clip_val", "callbacks", "logger"),
        *("limit_train_batches", "limit_val_batches", "check_val_every_n_epoch", "log_every_n_steps", "fast_dev_run"),
    ),
    "check": ("accelerator", "precision", "gradient_clip_val"),
    "bench": ("accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    "validate": (*MACHINE, "limit_val_batches"),
    "test": (*MACHINE, "limit_test_batches"),
    "predict": (*MACHINE, "limit_predict_batches"),
}
WORDS = {  # for values that have no default
    **{"config": "FILE", "ckpt_path": "RUN", "init_from": "WEIGHTS", "experiment": "NAME", "run_dir": "DIR"},
    **{"images": "PATH", "json": "FILE", "print_config": "", "data": "CLASS", "trainer.precision": "KIND"},
}
BATCHES = "Only so many batches, or such a share of them."
TEXTS = {  # in place of Lightning's and jsonargparse's
    "config": "A YAML file; of several the later go on top.",
    "print_config": "Print what would be run, and exit.",
    "seed_everything": "Seed of weights, order and augmentation.",
    "data": "Source of the images: {sources}, or an import path.",
    "trainer.max_epochs": "Stop after so many epochs.",
    "trainer.max_steps": "Stop after so many steps; -1 for no such end.",
    "trainer.accelerator": "cpu, gpu, mps, …; auto is what there is.",
    "trainer.devices": "How many of them, or a list of their numbers.",
    "trainer.strategy": "How several work together: ddp, fsdp, …",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed, …",
    "trainer.accumulate_grad_batches": "So many batches make a step.",
    "trainer.check_val_every_n_epoch": "Validate after every so many epochs.",
    "trainer.logger": "Loggers, beside metrics.csv; false for none.",
    "trainer.fast_dev_run": "Try so many batches and write nothing.",
    **{f"trainer.limit_{part}_batches": BATCHES for part in ("train", "val", "test", "predict")},
}
GROUPS = ("best", "last", "model", "data", "trainer")  # in the order of the page
EVALUATED = ("root", "eval_batch_size", "num_workers", "cache_dir", "resident_limit_gb", "broken")  # of a source's


def help_page(command: str, parser: ArgumentParser, configs: Sequence[dict[str, Any]], source: str | None) -> str:
    """The page of the options that are reached for.

    Args:
        command: Whose.
        parser: The command's.
        configs: Contents of configuration files, the later ones first; their values are shown.
        source: Class of the data, as it was given on the command line.
    """
    trains = command in ("fit", "check", "bench")
    kind = _source(configs, source)
    named = {action.dest: action for action in _all(parser, kind)}
    own = [key for key in named if "." not in key and key not in ("model", "trainer", "best", "last", "data")]
    data = [key for key in named if key.startswith("data.") and (trains or key.removeprefix("data.") in EVALUATED)]
    groups = {
        "options": own,
        "checkpoints": [key for key in named if key.startswith(("best.", "last."))],
        "model": [key for key in named if key.startswith("model.") and trains],
        "data" if kind is ImageDataModule else f"data, {kind.__name__}": ["data", *data],
        "trainer": [f"trainer.{name}" for name in TRAINER.get(command, MACHINE)],
    }
    lines = [f"usage: {parser.prog} {'--config FILE' if trains else '--ckpt_path RUN'} [--KEY VALUE ...]", ""]
    about = f"{COMMANDS[command][:1].upper()}{COMMANDS[command][1:]}."
    lines += textwrap.wrap(f"{about} The values shown are the defaults, or those of the configuration given.", WIDTH)
    for title, keys in groups.items():
        lines += ["", f"{title}:"] if keys else []
        for key in [key for key in keys if not key.endswith(".help")]:
            lines += _entry(named[key], _value(named[key], configs), _sentence(named[key]))
    lines += ["", "more:", *_lines("--help all", "Every option, each with all that is said of it.")]
    lines += _lines("--KEY.help CLASS", "The options of a class: model.backbone, model.optimizer, trainer.callbacks, …")
    return "\n".join(lines) + "\n"


def whole_help(parser: ArgumentParser, configs: Sequence[dict[str, Any]], source: str | None) -> str:
    """Every option, with all that is said of it; takes what :func:`help_page` does."""
    lines, last = [f"usage: {parser.prog} [--KEY VALUE ...]"], None
    for action in _all(parser, _source(configs, source)):
        group = action.dest.partition(".")[0] if "." in action.dest or action.dest in GROUPS else ""
        lines += [""] if group != last else []
        last, kinds = group, _type(action)
        text = f"{_text(action)} ({kinds.replace('|', ' | ')})" if kinds else _text(action)
        lines += _entry(action, _value(action, configs), text)
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """A text without Sphinx's markup, and without jsonargparse's lists of all classes that have been imported."""
    text = re.sub(r",\s+known\s+subclasses:[^)]*", "", text)
    text = re.sub(r":\w+:`~?([^`<]+?)(?:\s*<[^>]*>)?`", lambda found: found[1].rpartition(".")[2], text)
    return re.sub(r"\.\. \w+:: ?", "", text).replace("`", "")


def _all(parser: ArgumentParser, source: type) -> list[argparse.Action]:
    """A command's options, its own first, and those of its source of images."""
    of_source = ArgumentParser(exit_on_error=False)
    of_source.add_class_arguments(source, "data", fail_untyped=False)
    actions = [*_shown(parser), *(action for action in _shown(of_source) if action.dest != "data")]

    def place(action: argparse.Action) -> tuple[int, int]:
        group = action.dest.partition(".")[0]
        first = FIRST.index(action.dest) if action.dest in FIRST else len(FIRST)
        return (GROUPS.index(group) if group in GROUPS else -1, first)

    return sorted(actions, key=place)


def _shown(parser: ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        named = action.option_strings and action.option_strings[-1].startswith("--")
        if named and action.help != argparse.SUPPRESS and action.dest not in LINKED and action.dest != "help":
            yield action


def _source(configs: Iterable[dict[str, Any]], given: str | None) -> type:
    for name in (given, *(_at(config, "data") for config in configs)):
        module, _, last = str(name or "").rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), last, None) if module else None
        except ImportError:
            kind = None
        kind = kind or classes_below(ImageDataModule).get(last)
        if isinstance(kind, type) and issubclass(kind, ImageDataModule):
            return kind
    return ImageDataModule


def _at(config: Any, key: str) -> Any:
    """A value of a configuration file, of a class its name; None where there is none."""
    for part in key.split("."):
        if isinstance(config, dict) and config.keys() & {"class_path", "init_args"}:
            config = config.get("init_args")
        config = config.get(part) if isinstance(config, dict) else None
    return config.get("class_path") if isinstance(config, dict) else config


def _value(action: argparse.Action, configs: Iterable[dict[str, Any]]) -> str:
    """What an option is, as one would type it, or what it may be."""
    given = [value for config in configs if (value := _at(config, action.dest)) is not None]
    value = [*given, action.default][0]
    if isinstance(value, Namespace):
        value = value.get("class_path")
    if value in (None, argparse.SUPPRESS):
        return WORDS.get(action.dest, _type(action))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and re.fullmatch(r"[a-z]\w*(\.\w+)*\.[A-Z]\w+", value):
        return value.rpartition(".")[2]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _type(action: argparse.Action) -> str:
    kind = getattr(action, "_typehint", None)
    if kind is None or action.dest.endswith(".help"):
        return ""
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    text = re.sub(r"Callable\[\[.*?\], ([\w.]+)\]", r"\1", text)
    words = re.findall(r"'([\w-]+)'|\b(int|float|str|bool|dict|timedelta)\b|\b([A-Z]\w+)(?=[\],)]|$| \|)", text)
    names = [word for found in words for word in found if word not in ("", "None", "NoneType")]
    return "|".join(dict.fromkeys(names))


def _text(action: argparse.Action) -> str:
    text = " ".join(plain(action.help or "").split()).replace("%%", "%")
    text = TEXTS.get(action.dest, text)
    if action.dest == "data":
        known = [name for name, kind in classes_below(ImageDataModule).items() if not inspect.isabstract(kind)]
        text = text.format(sources=", ".join(known))
    return text


def _sentence(action: argparse.Action) -> str:
    """The first sentence of an option's text, of a long one the first part; and the words that it may be."""
    text = re.split(r"(?<=[.!])(?<!e\.g\.)(?<!i\.e\.) (?=[A-Z])|; see ", _text(action))[0].rstrip(".")
    text = text.partition("; ")[0] if len(text) > WIDTH - LEFT else text
    literal = re.search(r"Literal\[(.*?)\]", str(getattr(action, "_typehint", "")))
    if literal and action.dest not in TEXTS and len(literal[1]) < WIDTH:
        text = f"{text}: {literal[1].replace(chr(39), '')}"
    return text if text.endswith("…") else f"{text}."


def _entry(action: argparse.Action, value: str, text: str) -> list[str]:
    return _lines(f"{action.option_strings[-1].rstrip('+')} {value}".rstrip(), text)


def _lines(left: str, text: str) -> list[str]:
    """An option, and a text beside it, or below it where the option is long."""
    right = textwrap.wrap(text, WIDTH - LEFT, break_on_hyphens=False, break_long_words=False)
    if len(left) > LEFT - 4:
        return [f"  {left}", *(f"{'':{LEFT}}{line}" for line in right)]
    return [f"{f'  {left}' if number == 0 else '':{LEFT}}{line}" for number, line in enumerate(right or [""])]
