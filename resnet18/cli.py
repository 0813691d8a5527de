"""The program behind ``lightning fit``, ``validate``, ``test`` and ``predict``.

A LightningCLI with one directory a run, configurations that come back from checkpoints, and errors in a few lines.
:mod:`resnet18.__main__` is what the scripts call; it answers ``--help`` without importing any of this.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from resnet18.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from resnet18.callbacks.interrupt import GracefulStop
from resnet18.callbacks.predictions import PredictionTable
from resnet18.callbacks.progress import EpochLines
from resnet18.callbacks.seeding import StepSeeding
from resnet18.callbacks.throughput import Throughput
from resnet18.checkpoints import BEST, FOLDER, LAST, find_checkpoint, read_checkpoint, run_directory
from resnet18.class_paths import refuse_foreign_code
from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.errors import RunError, UsageError
from resnet18.loggers import MetricsFile, start_wandb, wandb_without_questions
from resnet18.parser import Parser, read_yaml
from resnet18.provenance import provenance, versions
from resnet18.runs import LATEST, METRICS, create_run, new_run_id, read_metrics, stored_config
from resnet18.warm_start import start_from

RUN_ID_VARIABLE = "RESNET18_RUN_ID"  # how the ranks that Lightning starts learn the run's name
STORED = ("experiment", "seed_everything", "model", "data", "trainer", "best", "last", "init_from")
MAY_CHANGE = ("data.init_args.root", "data.init_args.eval_batch_size")  # on resuming: they change no weight
TRAINER_DEFAULTS = {
    "logger": {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "resnet18"}},
    "use_distributed_sampler": False,  # the loaders shard themselves, without padding
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


class Program(LightningCLI):
    """One command: parsed, made, and ready to :meth:`start`.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: What follows it on the command line.

    Raises:
        UsageError: For what is wrong with them.
        RunError: For what is wrong with the files they name.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command = command
        self.directory: Path | None = None
        self.config_paths = [Path(value) for value in _values(arguments, "--config", "-c")]
        contents = [read_yaml(path) for path in self.config_paths]
        places = [content["ckpt_path"] for content in contents if content.get("ckpt_path")]
        places += _values(arguments, "--ckpt_path")
        self.checkpoint_path: Path | None = None
        self.checkpoint: dict[str, Any] = {}
        self.stored: dict[str, Any] | None = None
        if places:
            self.checkpoint_path = find_checkpoint(places[-1], (LAST, BEST) if command == "fit" else (BEST, LAST))
            self.checkpoint = read_checkpoint(self.checkpoint_path)
            self.stored = self._usable(stored_config(self.checkpoint, self.checkpoint_path))
            arguments = [f"--config={yaml.safe_dump(self.stored)}", *arguments]
        elif command != "fit" and not {"-h", "--help", "--print_config"} & set(arguments):
            raise UsageError(f"{command} needs trained weights: lightning {command} --ckpt_path RUN_OR_CHECKPOINT")
        super().__init__(
            Classifier,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=1,
            trainer_defaults=dict(TRAINER_DEFAULTS),
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

    # --- Arguments

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("num_classes", "mean", "std", "class_names", "input_size"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.backbone.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_whole_number)
        path_help = "A run's directory or a checkpoint file: "
        if self.command == "fit":
            parser.add_lightning_class_args(BestCheckpoint, "best")
            parser.add_lightning_class_args(LastCheckpoint, "last")
            parser.add_argument(
                "--experiment", type=str | None, help="Name of the folder of its runs; else the first config's."
            )
            parser.add_argument(
                "--run_dir", type=str | None, help="Directory of this run; else runs/EXPERIMENT/RUN_ID."
            )
            parser.add_argument("--ckpt_path", type=str | None, help=path_help + "go on with that run.")
            parser.add_argument(
                "--init_from",
                type=str | None,
                help="Start from the weights of a run, a checkpoint, a .pth file, or torchvision's by name.",
            )
        else:
            parser.add_argument("--ckpt_path", type=str | None, help=path_help + "the weights, the model and the data.")
        if self.command == "predict":
            parser.add_argument("--output", type=str, default="predictions.csv", help="The CSV file to write.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except UsageError as error:
            raise UsageError(f"{self._culprit(str(error))}{error}") from None
        refuse_foreign_code(self.config, self._source())
        for key, value in _leaves(self.config):
            if key.endswith("monitor") and str(value).startswith("test/"):
                raise UsageError(f"{key}: {value} would choose by the test images; monitor a val/ metric")
        if self.stored is not None:
            self._compare(parser.parse_object(self.stored))

    def _source(self) -> str:
        names = [str(path) for path in (*self.config_paths, self.checkpoint_path) if path is not None]
        return ", ".join(names) or "the command line"

    def _culprit(self, message: str) -> str:
        """The configuration file whose key or value an error names."""
        for path in reversed(self.config_paths):
            for key, value in _leaves(read_yaml(path)):
                name = key.rpartition(".")[2]
                if f"{name}'" in message or f'{name}"' in message or f"'{value}'" in message or f": {value}" in message:
                    return f"{path}: "
        return ""

    def _compare(self, stored: Namespace) -> None:
        before, now = dict(_leaves(stored)), dict(_leaves(self.config))
        changed = [
            f"{key}: {before.get(key)} → {now.get(key)}"
            for key in dict.fromkeys([*before, *now])
            if key.startswith(("seed_everything", "model.", "data.", "trainer."))
            and before.get(key) != now.get(key)
            and key not in MAY_CHANGE
        ]
        frozen = ("model.",) if self.command != "fit" else ("seed_everything", "model.", "data.")
        refused = [change for change in changed if change.startswith(frozen)]
        if refused and self.command == "fit":
            raise UsageError(
                f"resuming keeps a run's hyper-parameters, for the optimizer's state would bring the old ones back; "
                f"changed: {'; '.join(refused[:3])}. To start a new run from its weights: --init_from {self._run_name()}"
            )
        if refused:
            raise UsageError(f"the model comes from the checkpoint; changed: {'; '.join(refused[:3])}")
        for change in changed:
            say(f"given here, not as stored: {change}")

    def _run_name(self) -> str:
        assert self.checkpoint_path is not None
        return str(run_directory(self.checkpoint_path) or self.checkpoint_path)

    # --- Making things

    def before_instantiate_classes(self) -> None:
        dumped = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False)
        config = yaml.safe_load(dumped)
        if self.command != "fit":
            return
        self.resumed = run_directory(self.checkpoint_path) if self.checkpoint_path else None
        self.experiment = config["experiment"] or self._experiment()
        self.run_id = _run_id()
        if config["run_dir"]:
            self.directory = Path(config["run_dir"])
            self.run_id = self.directory.name
        elif self.resumed:
            self.directory, self.run_id = self.resumed, self.resumed.name
        else:
            self.directory = Path("runs", self.experiment, self.run_id)
        self.record: dict[str, Any] = {key: config[key] for key in STORED if key in config} | {"experiment": self.experiment}
        self._name_loggers()

    def _experiment(self) -> str:
        if self.config_paths:
            return self.config_paths[0].stem
        return str(self.config.data.class_path).rpartition(".")[2].lower()

    def _name_loggers(self) -> None:
        """Lets every logger of the configuration write into the run's directory, under the run's name."""
        loggers = self.config.trainer.logger
        if loggers is True:
            self.config.trainer.logger = loggers = self.parser.parse_object(
                {"trainer": {"logger": TRAINER_DEFAULTS["logger"]}}, defaults=False
            ).trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
            if arguments is None:
                continue
            if "save_dir" in arguments:
                arguments["save_dir"] = str(self.directory)
            if logger.class_path.endswith("WandbLogger"):
                arguments["id"] = self.run_id
                arguments["name"] = arguments.get("name") or f"{self.experiment}/{self.run_id}"

    def instantiate_classes(self) -> None:
        wandb_without_questions()
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            raise UsageError(f"{self._culprit(str(error))}{error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = {**self.config_init.trainer, **kwargs}
        callbacks = settings["callbacks"] or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        throughput = Throughput()
        shown: list[Callback] = []
        if settings["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            shown = [EpochLines(throughput)]
        if self.command != "fit":
            settings["logger"] = False
            settings["callbacks"] = [*callbacks, *shown]
            return self.trainer_class(**settings)
        if settings["fast_dev_run"]:
            settings["callbacks"] = [*callbacks, StepSeeding(self.config.seed_everything), throughput, *shown]
            return self.trainer_class(**settings)
        assert self.directory is not None
        callbacks = [*callbacks, StepSeeding(self.config.seed_everything), throughput, *shown]
        last = None
        if settings["enable_checkpointing"] is not False:
            self.best, last = self.config_init.best, self.config_init.last
            self.best.dirpath = str((self.directory / FOLDER).absolute())
            last.dirpath = self.directory / FOLDER
            callbacks += [self.best, last]
        settings["callbacks"] = [*callbacks, GracefulStop(last)]
        settings["default_root_dir"] = str(self.directory)
        loggers = settings["logger"] or []
        resume_step = self.checkpoint["global_step"] if self.resumed == self.directory and self.resumed else None
        metrics = MetricsFile(self.directory / METRICS, resume_step)
        settings["logger"] = [*(loggers if isinstance(loggers, list) else [loggers]), metrics]
        return self.trainer_class(**settings)

    # --- Running

    def start(self) -> None:
        """Runs the command to its end."""
        try:
            getattr(self, f"_{self.command}")()
        finally:
            for logger in self.trainer.loggers:
                if isinstance(logger, WandbLogger) and self.trainer.is_global_zero and logger._experiment is not None:
                    logger.experiment.finish()

    def _fit(self) -> None:
        self.model.run_config = self.record
        if self.checkpoint_path is None and self.config.init_from:
            say(start_from(self.model.backbone, self.config.init_from))
        if self.checkpoint_path is not None and self._finished():
            return
        if self.trainer.is_global_zero:
            # Before anything is written: what is wrong with the data shows here.
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
            if not self.trainer.fast_dev_run:
                self._open_run()
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint_path, weights_only=True)
        if not self.trainer.fast_dev_run:
            self._close_run()

    def _finished(self) -> bool:
        if "optimizer_states" not in self.checkpoint:
            raise UsageError(
                f"{self.checkpoint_path} holds weights only; go on from {LAST}, or --init_from {self.checkpoint_path}"
            )
        done = self.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        last = self.trainer.max_epochs
        if last is None or last < 0 or done < last:
            return False
        say(f"this run is finished: {done} of {last} epochs; --trainer.max_epochs {2 * last} would go on")
        return True

    @rank_zero_only
    def _open_run(self) -> None:
        assert self.directory is not None
        if self.resumed != self.directory:
            origin = provenance(self.config.seed_everything, self.datamodule.split_hash)
            create_run(self.directory, self.record, origin, link=not self.config.run_dir)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                start_wandb(logger)
            logger.log_hyperparams({**self.record, "versions": versions()})
        count = sum(parameter.numel() for parameter in self.model.backbone.parameters())
        data = self.datamodule
        assert data.train is not None and data.val is not None
        say(
            f"{self.directory}\n"
            f"{type(self.model.backbone).__name__}, {count:,} parameters, on {self.trainer.strategy.root_device.type}, "
            f"{self.trainer.precision}; {len(data.train.labels):,} images to train, {len(data.val.labels):,} to "
            f"validate, {data.num_classes} classes, split {data.split_hash}"
        )

    @rank_zero_only
    def _close_run(self) -> None:
        assert self.directory is not None
        latest = self.directory.with_name(LATEST)
        shown = latest if latest.exists() and latest.resolve() == self.directory.resolve() else self.directory
        rows = [row for row in read_metrics(self.directory) if self.config.best.monitor in row]
        lines = [""]
        if rows:
            monitor, choose = self.config.best.monitor, max if self.config.best.mode == "max" else min
            best = choose(rows, key=lambda row: row[monitor])
            value = f"{100 * best[monitor]:.2f} %" if "top" in monitor else f"{best[monitor]:.4f}"
            lines.append(f"best    {monitor} {value}, in epoch {best['epoch'] + 1:.0f} of {self.trainer.current_epoch}")
        lines.append(f"run     {self.directory}")
        lines.append(f"test    lightning test --ckpt_path {shown}")
        if any(isinstance(logger, WandbLogger) for logger in self.trainer.loggers):
            lines.append(f"curves  wandb leet {shown / 'wandb' / 'latest-run'}")
        say("\n".join(lines))

    def _validate(self) -> None:
        self._report("val", self.trainer.validate(self.model, **self._evaluated()))

    def _test(self) -> None:
        self._report("test", self.trainer.test(self.model, **self._evaluated()))

    def _evaluated(self) -> dict[str, Any]:
        return {"datamodule": self.datamodule, "ckpt_path": self.checkpoint_path, "verbose": False, "weights_only": True}

    @rank_zero_only
    def _report(self, stage: str, results: Any) -> None:
        metrics = results[0]
        scores = "  ".join(
            f"{name} {value:.4f}" if name.endswith("loss") else f"{name} {100 * value:.2f} %"
            for name, value in metrics.items()
        )
        say(f"{scores}  ({self.checkpoint_path}, step {self.checkpoint['global_step']:,})")
        run = run_directory(self.checkpoint_path) if self.checkpoint_path else None
        if run is not None and stage == "test":
            record = {"checkpoint": str(self.checkpoint_path), "split_hash": self.datamodule.split_hash, **metrics}
            (run / "test.json").write_text(json.dumps(record, indent=2) + "\n")

    def _predict(self) -> None:
        output = Path(self.config.output)
        if not output.parent.is_dir():
            raise RunError(f"output: there is no directory {output.parent}")
        table = PredictionTable(output, self.datamodule.class_names)
        self.trainer.callbacks.append(table)
        self.trainer.predict(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=self.checkpoint_path,
            return_predictions=False,
            weights_only=True,
        )
        say(f"{table.rows:,} predictions in {output}")


@rank_zero_only
def say(text: str) -> None:
    print(text, flush=True)


def _whole_number(seed: Any) -> int:
    if isinstance(seed, bool):
        raise ValueError("seed_everything must be a whole number: a run is repeated by its seed")
    return seed


def _run_id() -> str:
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and RUN_ID_VARIABLE in os.environ:
        return os.environ[RUN_ID_VARIABLE]
    os.environ[RUN_ID_VARIABLE] = new_run_id()
    return os.environ[RUN_ID_VARIABLE]


def _values(arguments: list[str], *names: str) -> list[str]:
    """What an option was given, each time it was: `--name value` and `--name=value`."""
    values = [argument.partition("=")[2] for argument in arguments if argument.partition("=")[0] in names and "=" in argument]
    pairs = zip(arguments, arguments[1:], strict=False)
    return values + [value for name, value in pairs if name in names]


def _leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, config


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning COMMAND ARGUMENTS`` does; raises what :mod:`resnet18.__main__` turns into an exit status."""
    Program(command, arguments).start()
    sys.stdout.flush()
