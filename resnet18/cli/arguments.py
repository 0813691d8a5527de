"""Parses and checks a command's options, and compares them with its checkpoint's.

Later files override earlier ones, options override files, and all override the checkpoint's configuration.
"""

import argparse
import importlib
import inspect
import pkgutil
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from resnet18 import callbacks, data
from resnet18.cli.command_inputs import OUTPUT, TRAINED, Inputs, take
from resnet18.cli.config_files import leaves, shown
from resnet18.cli.dry_run import refused_values
from resnet18.cli.explain import KeyedError, fault
from resnet18.cli.help import help_page
from resnet18.cli.parser import Parser, refuse_nulls
from resnet18.data.base import AtLeast1, ImageDataModule
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.engine.inputs import DESCRIBED
from resnet18.errors import RunError, UsageError
from resnet18.storage.class_paths import import_object, parameter_names, refuse_foreign_code
from resnet18.storage.loggers import default_logger
from resnet18.storage.networks import refuse_foreign_weights, takes_num_classes

# An imported source or callback, also one that a fork adds, is known by its class name alone.
for _module in (
    *pkgutil.iter_modules(data.__path__, "resnet18.data."),
    *pkgutil.iter_modules(callbacks.__path__, "resnet18.callbacks."),
):
    importlib.import_module(_module.name)

FIT_ONLY = ("best", "last", "experiment", "init_from", "run_dir")
WRITES_REPORT = ("fit", "validate", "test")
VIEW = ("eval_share", "interpolation")  # which a model of one's own may not take
MAY_CHANGE = tuple(f"data.{name}" for name in ("root", "eval_batch_size", "num_workers", "cache_dir"))  # on resuming
TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the loaders shard themselves, without padding
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


@rank_zero_only
def say(text: str) -> None:
    """Prints a line for the user."""
    print(text, flush=True)


@rank_zero_only
def warn(text: str) -> None:
    """Prints a warning for the user."""
    print(text, file=sys.stderr, flush=True)


class Arguments(LightningCLI):
    """A command's parsed arguments; :class:`resnet18.cli.program.Program` runs them."""

    def __init__(self, command: str, arguments: list[str], announce: bool = True) -> None:
        self.command, self.arguments, self.inputs = command, arguments, Inputs(command, arguments)
        self.announce = announce  # false where a program is made a second time, and has printed its notes
        self.config_paths = self.inputs.config_paths
        self.checkpoint_path, self.checkpoint = self.inputs.checkpoint_path, self.inputs.checkpoint
        super().__init__(
            self.inputs.model_class,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=1,
            trainer_defaults={**TRAINER_DEFAULTS, "logger": default_logger()},
            parser_class=Parser,
            parser_kwargs={"prog": f"lightning {command}", "description": None},
            auto_configure_optimizers=False,
            args=self.inputs.to_parse,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        assert isinstance(parser, Parser)
        parser.model_class = self.inputs.model_class
        names = parameter_names(parser.model_class)
        if missing := [name for name in DESCRIBED if name not in names and name not in VIEW]:
            taken = f"model: {parser.model_class.__name__} takes no {' and no '.join(missing)}"
            raise UsageError(f"{taken}; let its __init__ take **kwargs and give them to Classifier's")
        for name in DESCRIBED:
            if name in names:
                parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        if "backbone" in names:
            parser.link_arguments("data.num_classes", "model.backbone.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_seed)
        add = parser.add_argument
        if self.command in WRITES_REPORT:
            add("--report", type=bool, default=True, help="Write report.html into the run at the end.")
        else:
            add("--report", type=Any, help=argparse.SUPPRESS)
        if self.command == "fit":
            parser.add_lightning_class_args(BestCheckpoint, "best")
            parser.add_lightning_class_args(LastCheckpoint, "last")
            add("--experiment", type=str | None, help="Name of the folder under runs/; else the first config's.")
            add("--run_dir", type=str | None, help="Where to write; else runs/EXPERIMENT/RUN_ID.")
            add("--ckpt_path", type=str | None, help="The run or the checkpoint to resume.")
            add("--init_from", type=str | None, help="Weights to start from: a run, a .pth file, torchvision's.")
        else:
            if self.command in TRAINED:
                add("--ckpt_path", type=str | None, help="The run or the checkpoint to take.")
                add("--flip_tta", type=bool, default=False, help="Average the logits with those of the mirror image.")
            for name in FIT_ONLY:  # a run's config.yaml has them, and every command reads it
                add(f"--{name}", type=Any, help=argparse.SUPPRESS)
        if self.command == "predict":
            add("--images", type=Any, help="Images, directories, quoted patterns; else the run's test images.")
            add("--output", type=str, default=OUTPUT, help="The .csv, .jsonl or .parquet to write; - is stdout.")
            add("--topk", type=AtLeast1, default=1, help="How many classes to write of each image.")
            add("--embeddings", type=bool, default=False, help="Write what the last layer gets of each image.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if {"-h", "--help", "--help=all"} & set(args):
            self._print_help(parser)
        try:
            self.config = parser.parse_args(args)
            refuse_nulls(parser, self.config)
            for key, reason in refused_values(self.config):
                raise KeyedError(key, reason)
        except KeyedError as error:
            raise self.inputs.located(error) from None
        paths = [str(path) for path in (*self.config_paths, self.checkpoint_path) if path]
        source = ", ".join(paths) or "the command line"
        try:
            refuse_foreign_code(self.config, source)
            refuse_foreign_weights(self.config.model.get("backbone"), source)
        except RunError as error:
            raise error if self.checkpoint_path else UsageError(str(error)) from None
        # The same without defaults, except for the seed, which a link needs.
        self.given = parser.parse_args([f"--seed_everything={self.config.seed_everything}", *args], defaults=False)
        if self.inputs.stored is not None:
            self._compare(parser.parse_object(self.inputs.stored))

    def _print_help(self, parser: LightningArgumentParser) -> None:
        contents = [content for _, content in reversed(self.inputs.files)]
        contents += [self.inputs.stored] if self.inputs.stored else []
        source = next(reversed(take(self.arguments, "--data")[0]), None)
        every = bool({"all", "--help=all"} & set(self.arguments))
        print(help_page(self.command, parser, contents, source, every), end="")
        parser.exit()

    def _compare(self, stored: Namespace) -> None:
        """Refuses changes to what the checkpoint decides, and prints the others."""
        before, now = ({shown(key): value for key, value in leaves(config)} for config in (stored, self.config))
        groups = ("seed_everything", "model.", "data.", "trainer.")
        changed = [
            name
            for name in dict.fromkeys([*before, *now])
            if name.startswith(groups) and before.get(name) != now.get(name)
        ]
        decided = groups[:3]
        if self.command != "fit":
            other = ("trainer.logger", "trainer.callbacks", *(["data."] if self.inputs.images else []))  # not the run's
            changed = [name for name in changed if not name.startswith(other)]
            decided = ("model.",)
        self.overrides = {name: now.get(name) for name in changed}
        changes = {name: f"{name}: {before.get(name)} → {now.get(name)}" for name in changed}
        if refused := [changes[name] for name in changed if name.startswith(decided) and name not in MAY_CHANGE]:
            self.inputs.refuse_changes(refused)
        for change in changes.values():
            say(f"changed from the stored run: {change}")

    def set_num_classes(self) -> None:
        """Gives a network the number of classes where jsonargparse's link does not reach."""
        # The link reaches classes. It is silently dropped for functions and for parameters behind **kwargs, such as
        # most of torchvision's.
        assert isinstance(self.parser, Parser)
        backbone = self.config.model.get("backbone")
        made = import_object(backbone.class_path) if isinstance(backbone, Namespace) else None
        takes = takes_num_classes(made) if made is not None else "by name"
        self.fixed_width = takes is None
        if takes == "by name" and not inspect.isfunction(made):
            return
        if takes != "by name":
            self.parser.dropped_links.add("model.backbone.init_args.num_classes")
        if takes is None:
            return
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(ImageDataModule, "data")
        try:
            num_classes = parser.instantiate(Namespace(data=self.config.data)).data.num_classes
        except ValueError as error:
            raise self.usage_error(error, "data") from error
        if takes == "by name":
            backbone.init_args = backbone.get("init_args") or Namespace()
            backbone.init_args.num_classes = num_classes
        else:
            backbone.dict_kwargs = {**(backbone.get("dict_kwargs") or {}), "num_classes": num_classes}

    def usage_error(self, error: Exception, key: str) -> UsageError:
        """Adds its key and file to an error raised while ``key`` was being made or used."""
        assert isinstance(self.parser, Parser)
        key, name, text = fault(error, self.config, key, self.parser.model_class, self.parser.raised)
        text = text.removeprefix(f"{key}: ")
        if name is None and self.inputs.has_option_below(key):
            return UsageError(f"{shown(key)}: {text}")  # the fault may be in a file or on the command line
        return self.inputs.located(KeyedError(f"{key}.{name}" if name else key, text))


def _seed(seed: Any) -> int:
    if isinstance(seed, bool):
        raise ValueError("expected a whole number: a run is repeated by its seed")
    if not 0 <= seed < 2**32:
        raise ValueError(f"expected a whole number from 0 to {2**32 - 1}, not {seed}")
    return seed
