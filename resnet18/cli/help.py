"""``lightning COMMAND --help``: the common options, or with ``--help all`` every one.

Names, types, defaults and texts come from signatures and docstrings, through the parser.
"""

import argparse
import importlib
import inspect
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace, dict_to_namespace

from resnet18.cli import COMMANDS
from resnet18.cli.config_files import LINKED, shown
from resnet18.data.base import ImageDataModule
from resnet18.errors import classes_below

SCORES = ("validate", "test", "predict")
GROUPS = ("options", "best", "last", "model", "data", "trainer")
MACHINE = ("accelerator", "devices", "strategy", "precision")
TRAINER = {  # the common options of Lightning's Trainer that each command uses
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
# A source's options for evaluation
EVALUATED = ("root", "eval_batch_size", "num_workers", "cache_dir", "resident_limit_gb", "broken")
WORDS = {  # placeholders for values without a default
    **{"ckpt_path": "RUN", "init_from": "WEIGHTS", "experiment": "NAME", "run_dir": "DIR", "images": "PATH ..."},
    **{"data": "CLASS", "trainer.precision": "KIND", "print_config": ""},
}
TEXTS = {  # replace Lightning's and jsonargparse's
    "config": "A YAML file; later ones override earlier ones.",
    "print_config": "Print what would be run, and exit.",
    "seed_everything": "Seed of weights, order and augmentation.",
    "trainer.accelerator": "cpu, gpu, mps, …; auto is what there is.",
    "trainer.devices": "How many of them, or a list of their numbers.",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed and more.",
    "trainer.logger": "Loggers, beside metrics.csv; false for none.",
    "trainer.fast_dev_run": "Try this many batches and write nothing.",
}


def help_page(
    command: str, parser: ArgumentParser, configs: Sequence[dict[str, Any]], source: str | None, every: bool
) -> str:
    """Formats the common options, or every one; ``configs`` are contents of files, the later ones first."""
    given = (item for config in reversed(configs) for item in dict_to_namespace(config).items())
    values = {shown(key).removesuffix(".class_path"): value for key, value in given if value is not None}
    kind = _source(str(source or values.get("data")))
    of_source = ArgumentParser(exit_on_error=False)
    of_source.add_class_arguments(kind, "data", fail_untyped=False)
    about = COMMANDS[command]
    page = argparse.ArgumentParser(
        usage=f"{parser.prog} {'--ckpt_path RUN' if command in SCORES else '--config FILE'} [--KEY VALUE ...]",
        description=f"{about[0].upper()}{about[1:]}. The values shown are the configuration's, or the defaults.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=31, width=80),
        add_help=False,
    )
    groups = {name: page.add_argument_group(name) for name in GROUPS}
    groups["data"].title = f"data, {kind.__name__}"
    for action in [*parser._actions, *(action for action in of_source._actions if action.dest != "data")]:
        option, key = action.option_strings[-1].rstrip("+"), action.dest
        hidden = action.help == argparse.SUPPRESS or key.endswith("help") or key in LINKED
        if hidden or not option.startswith("--") or not (every or _is_common(key, command)):
            continue
        hint, text = getattr(action, "_typehint", None), _text(action)
        kinds = _kinds(hint)
        if every:
            text += f" ({' | '.join(kinds)})" if kinds else ""
        else:
            first = re.split(r"(?<=[.!]) (?=[A-Z])|; see ", text)[0].removesuffix(".")
            text = f"{first}: {', '.join(kinds)}." if get_origin(hint) is Literal else f"{first}."
        value = _value(values.get(key, action.default)) or WORDS.get(key, "|".join(kinds) or "FILE")
        group = groups.get(key.partition(".")[0], groups["options"])
        group.add_argument(option, metavar=value, help=text.replace("%", "%%"))
    more = page.add_argument_group("more")
    if not every:  # where the parser's own option of that name is shown
        more.add_argument("--model", metavar="CLASS", help="A subclass of Classifier, with options of its own.")
    more.add_argument("--help", metavar="all", help="Every option, with its full description.")
    more.add_argument("--KEY.help", metavar="CLASS", help="The options of a class, for example of model.optimizer.")
    return page.format_help()


def plain(text: str) -> str:
    """Strips Sphinx's markup, pydantic's limits and jsonargparse's lists of imported classes."""
    text = re.sub(r",\s+known\s+subclasses:[^)]*", "", text)
    text = re.sub(r"Annotated\[(\w+),\s+FieldInfo\((?:[^()]|\([^()]*\))*\)\]", r"\1", text)
    text = re.sub(r":\w+:`~?([^`<]+?)(?:\s*<[^>]*>)?`", lambda found: found[1].rpartition(".")[2], text)
    return re.sub(r"\.\. \w+:: ?", "", text).replace("`", "")


def _is_common(key: str, command: str) -> bool:
    group, _, name = key.partition(".")
    if group == "data":
        return command not in SCORES or name in ("", *EVALUATED)
    if group in ("model", "best", "last"):
        return command not in SCORES and bool(name)
    return group != "trainer" or name in TRAINER.get(command, MACHINE)


def _source(name: str) -> type:
    """Finds an image source by name or import path; the base class if there is none."""
    module, _, last = name.rpartition(".")
    with suppress(ImportError, AttributeError):
        return getattr(importlib.import_module(module or "resnet18"), last)
    return classes_below(ImageDataModule).get(last, ImageDataModule)


def _value(value: Any) -> str:
    """A value as typed on the command line, empty for none."""
    if value in (None, argparse.SUPPRESS):
        return ""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    text = str(value.class_path if isinstance(value, Namespace) else value)
    if re.fullmatch(r"([a-z]\w*\.)+[A-Z]\w+", text):  # a class: its name is enough
        return text.rpartition(".")[2]
    return text.lower() if isinstance(value, bool) else text


def _kinds(hint: Any) -> list[str]:
    """Names the types or the literals that a type hint allows."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return [str(word) for word in parts]
    if parts:
        return list(dict.fromkeys(kind for part in parts for kind in _kinds(part)))
    return [hint.__name__] if isinstance(hint, type) and hint is not NoneType else []


def _text(action: argparse.Action) -> str:
    if action.dest == "data":
        sources = classes_below(ImageDataModule).items()
        known = [name for name, kind in sources if not inspect.isabstract(kind) and name != "Unlabelled"]  # predict's
        return f"Source of the images: {', '.join(known)}, or an import path."
    return TEXTS.get(action.dest, " ".join(plain(action.help or "").split()).replace("%%", "%"))
