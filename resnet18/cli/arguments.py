"""What a command is given: configurations, checkpoints and options, read, merged and compared.

Files come first to last, then what is typed; below them lies the configuration of the checkpoint, if one is named.
"""

import argparse
import importlib
import inspect
import pkgutil
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from resnet18 import callbacks, data
from resnet18.classifier import Classifier
from resnet18.cli.config_files import (
    LINKED,
    check_class_at,
    check_file,
    leaves,
    nested,
    read_yaml,
    shown,
    without_numbers,
)
from resnet18.cli.dry_run import refused_values
from resnet18.cli.explain import KeyedError, MissingError, Parser, fault, parameter_names
from resnet18.cli.help import help_page
from resnet18.cli.trainer_parts import CALLBACK_OPTIONS, refuse_callbacks
from resnet18.data.base import ImageDataModule
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import RunError, UsageError, hint
from resnet18.runs import stored_config
from resnet18.storage.checkpoints import find_checkpoint, read_checkpoint, read_resumable, run_directory
from resnet18.storage.class_paths import import_object, refuse_foreign_code
from resnet18.storage.loggers import default_logger

# Once imported, a source or a callback is known by the name of its class alone; those that a fork adds, too.
for _module in (
    *pkgutil.iter_modules(data.__path__, "resnet18.data."),
    *pkgutil.iter_modules(callbacks.__path__, "resnet18.callbacks."),
):
    importlib.import_module(_module.name)

FIT_ONLY = ("best", "last", "experiment", "init_from", "run_dir")
GROUPS = ("seed_everything", "model", "data", "trainer", "ckpt_path", "flip_tta", "output", "images", *FIT_ONLY)
TRAINED = ("validate", "test", "predict")  # the commands that need a checkpoint
ONLY_SHOWN = ("-h", "--help", "--print_config")  # nothing is run
MAY_CHANGE = tuple(  # on resuming: they change no weight
    f"data.init_args.{name}" for name in ("root", "eval_batch_size", "num_workers", "cache_dir")
)
TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the loaders shard themselves, without padding
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


@rank_zero_only
def say(text: str) -> None:
    """A line for whoever started the command."""
    print(text, flush=True)


@rank_zero_only
def warn(text: str) -> None:
    """The same where something is not as it might be."""
    print(text, file=sys.stderr, flush=True)


class Arguments(LightningCLI):
    """A command's arguments, parsed; :class:`resnet18.cli.program.Program` makes and runs what they say.

    Args:
        command: One of :data:`resnet18.__main__.COMMANDS`.
        arguments: What follows it on the command line.

    Raises:
        UsageError: For what is wrong with them.
        RunError: For what is wrong with the files they name.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command, self.arguments = command, arguments
        self.config_paths = [Path(value) for value in _values(arguments, "--config", "-c")]
        contents = [read_yaml(path) for path in self.config_paths]
        for path, content in zip(self.config_paths, contents, strict=True):
            for key in content:
                if key not in GROUPS:
                    advice = nested(str(key)) or hint(str(key), GROUPS)
                    raise UsageError(f"{path}: {key}: there is no such key{advice}")
            check_file(content, str(path))
        refuse_callbacks(zip(self.config_paths, contents, strict=True), _values(arguments, *CALLBACK_OPTIONS))
        for argument in arguments:
            if source := LINKED.get(shown(argument.partition("=")[0].removeprefix("--"))):
                raise UsageError(f"{argument} can't be given; it is taken from {source}")
        places = [content["ckpt_path"] for content in contents if content.get("ckpt_path")]
        places += _values(arguments, "--ckpt_path")
        self.checkpoint_path: Path | None = None
        self.checkpoint: dict[str, Any] = {}
        self.stored: dict[str, Any] | None = None
        if places:
            if command == "fit":
                self.checkpoint_path, self.checkpoint = read_resumable(places[-1])
            else:
                self.checkpoint_path = find_checkpoint(places[-1])
                self.checkpoint = read_checkpoint(self.checkpoint_path)
            self.stored = self._usable(stored_config(self.checkpoint, self.checkpoint_path))
            if command == "predict" and (images := _values(arguments, "--images")):
                self.stored["data"] = self._unlabelled(images[-1])
            arguments = [f"--config={yaml.safe_dump(self.stored)}", *arguments]
        elif command in TRAINED and not any(argument.startswith(ONLY_SHOWN) for argument in arguments):
            raise UsageError(f"{command} needs trained weights: lightning {command} --ckpt_path RUN_OR_CHECKPOINT")
        super().__init__(
            Classifier,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=1,
            trainer_defaults={**TRAINER_DEFAULTS, "logger": default_logger()},
            parser_class=Parser,
            parser_kwargs={"prog": f"lightning {command}", "description": None},
            auto_configure_optimizers=False,
            args=arguments,
            run=False,
        )

    def _usable(self, stored: dict[str, Any]) -> dict[str, Any]:
        if self.command == "fit":
            return stored
        usable = {key: stored[key] for key in ("seed_everything", "model", "data", "trainer") if key in stored}
        usable["trainer"]["logger"] = False
        return usable

    def _unlabelled(self, images: str) -> dict[str, Any]:
        """The data of a prediction for images of one's own, with what the checkpoint knows of its own."""
        known = self.checkpoint.get(Classifier.CHECKPOINT_HYPER_PARAMS_KEY, {})
        names = ("class_names", "mean", "std", "input_size")
        if missing := [name for name in names if not known.get(name)]:
            raise RunError(f"{self.checkpoint_path} does not say its {' and '.join(missing)}, which --images needs")
        assert self.stored is not None
        share = self.stored["data"].get("init_args", {}).get("eval_share", 1.0)
        values = {name: known[name] for name in names}
        return {
            "class_path": "resnet18.data.unlabelled.Unlabelled",
            "init_args": {"images": images, "eval_share": share, **values},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("num_classes", "mean", "std", "class_names", "input_size"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.backbone.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_whole_number)
        if self.command == "fit":
            parser.add_lightning_class_args(BestCheckpoint, "best")
            parser.add_lightning_class_args(LastCheckpoint, "last")
            parser.add_argument(
                "--experiment", type=str | None, help="Name of the folder under runs/; else the first config's."
            )
            parser.add_argument("--run_dir", type=str | None, help="Where to write; else runs/EXPERIMENT/RUN_ID.")
            parser.add_argument("--ckpt_path", type=str | None, help="The run or the checkpoint to resume.")
            parser.add_argument(
                "--init_from",
                type=str | None,
                help="Weights to start from: a run, a .pth file, torchvision's.",
            )
        else:
            if self.command in TRAINED:
                parser.add_argument("--ckpt_path", type=str | None, help="The run or the checkpoint to take.")
                parser.add_argument(
                    "--flip_tta", type=bool, default=False, help="Average the logits with those of the mirror image."
                )
            for name in FIT_ONLY:  # a run's config.yaml has them, and every command reads it
                parser.add_argument(f"--{name}", type=Any, help=argparse.SUPPRESS)
        if self.command == "predict":
            parser.add_argument("--output", type=str, default="predictions.csv", help="The CSV file to write.")
            parser.add_argument(
                "--images", type=str | None, help="An image or a directory; else the run's test images."
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if {"-h", "--help", "--help=all"} & set(self.arguments):
            contents = [*map(read_yaml, reversed(self.config_paths)), *([self.stored] if self.stored else [])]
            source = next(reversed(_values(self.arguments, "--data")), None)
            every = bool({"all", "--help=all"} & set(self.arguments))
            print(help_page(self.command, parser, contents, source, every), end="")
            parser.exit()
        try:
            self.config = parser.parse_args(args)
        except KeyedError as error:
            culprit = self._culprit(error.key)
            if isinstance(error, MissingError):
                if not error.key and self.config_paths:
                    culprit = f"{', '.join(map(str, self.config_paths))}: "
                raise UsageError(f"{culprit}{error}; see configs/") from None
            if error.unclear and culprit:
                path = culprit.removesuffix(": ")
                check_class_at(read_yaml(Path(path)), path, error.key)
            raise UsageError(f"{culprit}{error}") from None
        try:
            refuse_foreign_code(self.config, self._source())
        except RunError as error:
            raise error if self.checkpoint_path else UsageError(str(error)) from None
        for key, told in refused_values(self.config):
            raise UsageError(f"{self._culprit(key)}{shown(key)}: {told}")
        # The same without the defaults, but for the one that a link takes.
        self.given = parser.parse_args([f"--seed_everything={self.config.seed_everything}", *args], defaults=False)
        if self.stored is not None:
            self._compare(parser.parse_object(self.stored))

    def _source(self) -> str:
        names = [str(path) for path in (*self.config_paths, self.checkpoint_path) if path is not None]
        return ", ".join(names) or "the command line"

    def _options(self) -> list[str]:
        return [shown(argument.partition("=")[0].lstrip("-")) for argument in self.arguments]

    def _culprit(self, key: str) -> str:
        """The configuration file that a key comes from, as the start of a sentence; nothing for the command line."""
        key = without_numbers(shown(key))
        options = self._options()
        if not key or any(option == key or (option and key.startswith(f"{option}.")) for option in options):
            return ""
        for path in reversed(self.config_paths):
            for leaf, _ in leaves(read_yaml(path)):
                if f"{without_numbers(shown(leaf))}.".startswith(f"{key}."):
                    return f"{path}: "
        return ""

    def _refused(self, error: Exception, key: str) -> UsageError:
        """What a value met when it was used, with its key and the file that this is from.

        Args:
            error: What was raised.
            key: Of what was made or used; where the parser saw a class raise it, that class's own key counts.
        """
        assert isinstance(self.parser, Parser)
        key, name, text = fault(error, self.config, key, self.parser.raised)
        text = text.removeprefix(f"{key}: ")
        if name is None and any(option.startswith(f"{shown(key)}.") for option in self._options()):
            return UsageError(f"{shown(key)}: {text}")  # what is at fault may stand in a file or on the command line
        key = f"{key}.{name}" if name else key
        return UsageError(f"{self._culprit(key)}{shown(key)}: {text}")

    def _hand_over_num_classes(self) -> None:
        """Sees to it that a function learns the number of classes too.

        jsonargparse's link reaches classes. For a function that hides its parameters behind ``**kwargs``, as most of
        torchvision's do, it is dropped in silence.
        """
        backbone = self.config.model.backbone
        if not isinstance(backbone, Namespace):
            return
        made = import_object(backbone.class_path)
        named = "num_classes" in parameter_names(made)
        if named and isinstance(made, type):
            return
        kinds = [parameter.kind for parameter in inspect.signature(made).parameters.values()]
        if not named and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise UsageError(
                f"{self._culprit('model.backbone')}model.backbone: {backbone.class_path} takes no num_classes, "
                f"so its logits can't fit the data: def {made.__name__}(num_classes: int) is needed"
            )
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(ImageDataModule, "data")
        try:
            data = parser.instantiate(Namespace(data=self.config.data)).data
        except ValueError as error:
            raise self._refused(error, "data") from error
        if named:
            backbone.init_args = backbone.get("init_args") or Namespace()
            backbone.init_args.num_classes = data.num_classes
        else:
            backbone.dict_kwargs = {**(backbone.get("dict_kwargs") or {}), "num_classes": data.num_classes}

    def _compare(self, stored: Namespace) -> None:
        before, now = dict(leaves(stored)), dict(leaves(self.config))
        changed = [
            f"{shown(key)}: {before.get(key)} → {now.get(key)}"
            for key in dict.fromkeys([*before, *now])
            if key.startswith(("seed_everything", "model.", "data.", "trainer.")) and before.get(key) != now.get(key)
        ]
        if self.command != "fit":
            changed = [change for change in changed if not change.startswith(("trainer.logger", "trainer.callbacks"))]
        frozen = ("model.",) if self.command != "fit" else ("seed_everything", "model.", "data.")
        allowed = tuple(f"{shown(key)}:" for key in MAY_CHANGE)
        refused = [change for change in changed if change.startswith(frozen) and not change.startswith(allowed)]
        if refused and self.command == "fit":
            raise UsageError(
                "resuming keeps a run's hyper-parameters, for the optimizer's state would bring the old ones back; "
                f"changed: {'; '.join(refused[:3])}. For a new run from its weights: --init_from {self._run_name()}"
            )
        if refused:
            raise UsageError(f"the model comes from the checkpoint; changed: {'; '.join(refused[:3])}")
        keys = {shown(key): key for key in [*before, *now]}
        self.overrides = {
            name: now.get(key) for name, key in keys.items() if f"{name}:" in {c.split()[0] for c in changed}
        }
        for change in changed:
            say(f"given here, not as stored: {change}")

    def _run_name(self) -> str:
        """The run that is gone on with, as one types it."""
        assert self.checkpoint_path is not None
        return shlex.quote(str(run_directory(self.checkpoint_path) or self.checkpoint_path))


def _whole_number(seed: Any) -> int:
    if isinstance(seed, bool):
        raise ValueError("expected a whole number: a run is repeated by its seed")
    if not 0 <= seed < 2**32:
        raise ValueError(f"expected a whole number from 0 to {2**32 - 1}, not {seed}")
    return seed


def _values(arguments: list[str], *names: str) -> list[str]:
    """What an option was given, each time it was: `--name value` and `--name=value`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(*names, action="append", default=[], dest="values")
    try:
        return parser.parse_known_args(arguments)[0].values
    except argparse.ArgumentError:  # for one without a value, which the command's parser will say
        return []
