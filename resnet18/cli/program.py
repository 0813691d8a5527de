"""The program behind ``lightning fit``, ``validate``, ``test`` and ``predict``.

A LightningCLI with one directory a run, configurations that come back from checkpoints, and errors in a few lines.
:mod:`resnet18.__main__` is what the scripts call; it answers ``--help`` without importing any of this.
"""

import os
import shlex
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from resnet18.callbacks.predictions import PredictionTable
from resnet18.callbacks.progress import EpochLines
from resnet18.cli.arguments import Arguments, say, warn
from resnet18.cli.dry_run import FOLDER_NAMES, can_name_a_folder, follow_metrics, try_one_image, try_schedule
from resnet18.cli.explain import KeyedError, make
from resnet18.cli.lr_finder import NAME, check_search, find_rate, take_finder
from resnet18.cli.messages import closing, finished, opening, scores
from resnet18.cli.trainer_parts import (
    as_list,
    check_clipping,
    check_flags,
    check_limits,
    check_resuming,
    clip_fused,
    prepare_callbacks,
)
from resnet18.engine.divergence import FiniteLoss
from resnet18.engine.loops import batches_into_epoch, is_dry_run, planned_steps
from resnet18.engine.overhead import profiler_into, report_of
from resnet18.engine.precision import choose_precision, emulation_warning, plugin_decides
from resnet18.engine.ranks import ending_together, prepare_ranks
from resnet18.engine.seeding import StepSeeding
from resnet18.engine.stopping import GracefulStop, SavingStop
from resnet18.errors import RunError, UsageError, counted
from resnet18.storage.checkpoint_io import BackgroundFiles
from resnet18.storage.checkpoints import FOLDER, LAST, run_directory, start_from
from resnet18.storage.class_paths import callables, import_object
from resnet18.storage.loggers import MetricsFile, start_wandb, wandb_without_questions
from resnet18.storage.provenance import own_sources, provenance, versions
from resnet18.storage.records import METRICS, append_evaluation, create_run, new_run_id, write_config

STORED = ("experiment", "seed_everything", "model", "data", "trainer", "best", "last", "init_from")


class Program(Arguments):
    """One command, parsed and made, and ready to :meth:`start`. Its arguments are those of :class:`Arguments`."""

    directory: Path | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        return self  # a module's optimizer and schedule reach it: copies of the module share what it was made by

    def before_instantiate_classes(self) -> None:
        self._choose_precision()
        self.finder, _ = take_finder(self.config.trainer), take_finder(self.given.get("trainer", Namespace()))
        dumped = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False)
        # What jsonargparse writes before a name that might be a function's: ModelPruning's pruning_fn.
        config = yaml.safe_load(dumped.replace("Unable to serialize instance ", ""))
        self._hand_over_num_classes()
        self.parser.add_instantiator(make, object)  # all that are not Lightning's own two
        if self.command != "fit":
            self.config.trainer.logger = False  # W&B's would make its directory
            return
        self.resumed = run_directory(self.checkpoint_path) if self.checkpoint_path else None
        self.experiment = self._experiment() if config["experiment"] is None else config["experiment"]
        if not self.resumed and not can_name_a_folder(self.experiment):
            where = self._culprit("experiment")
            raise UsageError(f"{where}experiment must be a name {FOLDER_NAMES}, not {self.experiment!r}")
        self.run_id = new_run_id()  # on several ranks rank 0's counts: what writes has it told by that one
        if config["run_dir"]:
            self.directory = Path(config["run_dir"])
            self.run_id = self.directory.name
        elif self.resumed:
            self.directory, self.run_id = self.resumed, self.resumed.name
        else:
            self.directory = Path("runs", self.experiment, self.run_id)
        self.record: dict[str, Any] = {key: config[key] for key in STORED if key in config} | {
            "experiment": self.experiment
        }
        self._name_loggers()

    def _choose_precision(self) -> None:
        """Fills in a precision that was left out, before the configuration is stored: a run keeps its own."""
        trainer = self.config.trainer
        self.precision_reason = "as configured" if self.stored is None else "the run's own"
        if trainer.precision is not None or plugin_decides(trainer.plugins):
            return
        if self.stored is not None:
            trainer.precision = "32-true"  # what Lightning takes for none
        else:
            trainer.precision, self.precision_reason = choose_precision(trainer.accelerator)

    def _experiment(self) -> str:
        if self.config_paths:
            return self.config_paths[0].stem
        return str(self.config.data.class_path).rpartition(".")[2].lower()

    def _name_loggers(self) -> None:
        """Lets every logger of the configuration write into the run's directory, under the run's name."""
        assert self.directory is not None
        loggers = self.config.trainer.logger
        if loggers is True:
            self.config.trainer.logger = loggers = self.parser.get_defaults().trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if not isinstance(logger, Namespace) or (arguments := logger.get("init_args")) is None:
                continue
            if "save_dir" in arguments:
                arguments["save_dir"] = str(self.directory.absolute())  # W&B's service works in a directory of its own
            made = import_object(logger.class_path)
            if isinstance(made, type) and issubclass(made, WandbLogger):
                arguments["id"] = self.run_id
                given = arguments.get("name") or os.environ.get("WANDB_NAME")
                arguments["name"] = given or f"{self.experiment}/{self.run_id}"

    def instantiate_classes(self) -> None:
        wandb_without_questions()
        try:
            made = self.config_init = self.parser.instantiate(self.config)
        except (ValueError, TypeError, MisconfigurationException) as error:
            # The parser knows which class it was; else it was a function, and only a backbone is made by one here.
            raise self._refused(error, "model.backbone") from error
        self.datamodule, self.model = made["data"], made["model"]
        try:
            if self.command == "fit":
                follow_metrics(self.config, self.given, self.record, made["trainer"], self.model)
            self.trainer = self.instantiate_trainer()
        except KeyedError as error:
            raise UsageError(f"{self._culprit(error.key)}{error}") from None
        trainer = self.config.trainer
        if warning := emulation_warning(trainer.precision, trainer.accelerator):
            warn(warning)
        if self.command == "fit":  # before the data are touched, which may take a download
            self._try_recipe()

    def _try_recipe(self, total_steps: float = 1) -> None:
        """Makes the optimizer and the schedule of a run of this length, and lets the schedule step once."""
        key = "model.optimizer"
        try:
            self.model.make_optimizer()
            key = "model.schedule"
            try_schedule(self.model, total_steps)
        except KeyedError as error:
            raise UsageError(f"{self._culprit(error.key)}{error}") from None
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            raise self._refused(error, key) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = {**self.config_init["trainer"], **kwargs}
        check_flags(self.command, settings)
        callbacks: list[Callback] = as_list(settings["callbacks"])
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if self.command == "fit":
            callbacks.append(StepSeeding(self.config.seed_everything))
        if self.command == "predict":
            self.table = PredictionTable(self._output(), self.datamodule.class_names)
            callbacks.append(self.table)
        if settings["enable_progress_bar"] is not False and not own_bar:
            callbacks.append(EpochLines())
        if self.command == "fit" and not settings["fast_dev_run"]:
            self._keep(settings, callbacks)
        settings["callbacks"] = callbacks
        return self._trainer(settings)

    def _keep(self, settings: dict[str, Any], callbacks: list[Callback]) -> None:
        """Adds what writes into the run's directory."""
        assert self.directory is not None
        if settings["enable_checkpointing"] is False:
            stop = GracefulStop()
            callbacks += [FiniteLoss(stop, last=None), stop]
        else:
            best, last = self.config_init["best"], self.config_init["last"]
            prepare_callbacks(callbacks, self.directory / FOLDER, best, last, self.model)
            best.dirpath = str((self.directory / FOLDER).absolute())
            last.dirpath = self.directory / FOLDER
            stop = SavingStop(last)
            watched = [] if settings["limit_val_batches"] == 0 else [best]
            callbacks += [FiniteLoss(stop, last), *watched, last, stop]
            plugins = as_list(settings["plugins"])
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                settings["plugins"] = [*plugins, BackgroundFiles()]
        settings["default_root_dir"] = str(self.directory)
        loggers = settings["logger"] or []
        resume_step = self.checkpoint["global_step"] if self.resumed == self.directory else None
        self.metrics_file = MetricsFile(self.directory / METRICS, resume_step)
        settings["logger"] = [*(loggers if isinstance(loggers, list) else [loggers]), self.metrics_file]

    def _trainer(self, settings: dict[str, Any]) -> Trainer:
        run = run_directory(self.checkpoint_path) if self.command != "fit" and self.checkpoint_path else self.directory
        settings["profiler"] = profiler_into(None if settings["fast_dev_run"] else run, settings["profiler"])
        try:
            trainer = self.trainer_class(**settings)
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise self._refused(error, "trainer") from error  # some for what this machine does not have
        if not trainer.is_global_zero:  # whose directory is another
            settings["profiler"].dirpath = settings["profiler"].filename = None
        clip_fused(trainer)
        last = self.config_init["last"] if self.command == "fit" else None
        prepare_ranks(trainer, self.command, last, settings["sync_batchnorm"] is True)
        return trainer

    def start(self) -> None:
        """Runs the command to its end."""
        status = 1
        try:
            with ending_together(self.trainer):
                getattr(self, f"_{self.command}")()
            if report := report_of(self.trainer):
                say(f"profile {report}")
            status = 0
        except (MisconfigurationException, TrainingSpikeException) as error:  # Lightning's, for what can't go on
            raise RunError(" ".join(str(error).split())) from error
        finally:
            self.datamodule.teardown(self.command)
            for logger in self.trainer.loggers:
                if isinstance(logger, WandbLogger) and self.trainer.is_global_zero and logger._experiment is not None:
                    logger.experiment.finish(exit_code=status)  # by which W&B shows whether it failed

    def _fit(self) -> None:
        self.model.run_config = self.record
        if self.checkpoint_path is None and self.config.init_from:
            say(start_from(self.model.backbone, self.config.init_from))
        if self.checkpoint_path is not None:
            if self._finished():
                return
            check_resuming(self.trainer)
        if self.trainer.is_global_zero:
            self._try()
            if not is_dry_run(self.trainer):
                self._open_run()
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint_path, weights_only=True)
        if not is_dry_run(self.trainer):
            self._close_run()

    def _try(self) -> None:
        """Before anything is written: what is wrong with the data shows here."""
        self.datamodule.prepare_data()
        try:
            self.datamodule.setup("fit")
            batches = self.datamodule.batches(self.trainer.world_size)
        except (ValueError, TypeError) as error:
            raise self._refused(error, "data") from error
        check_limits(self.trainer, batches, self.datamodule)
        self._try_recipe(planned_steps(self.trainer, batches))
        check_clipping(self.trainer, self.model.make_optimizer())
        self._compare_data()
        self.datamodule.check_resumed_epoch(self.trainer, batches_into_epoch(self.checkpoint))
        try_one_image(self.model, self.datamodule.input_size, self.trainer.strategy.root_device)

    def find_rate(self) -> list[str]:
        """The option that gives the learning rate which a LearningRateFinder finds; this program is spent then."""
        if self.command != "fit" or self.finder is None or is_dry_run(self.trainer):
            return []
        check_search(self.model, self.trainer.world_size, self.checkpoint_path is not None)
        if self.config.init_from:
            start_from(self.model.backbone, self.config.init_from)
        self._try()
        rate = find_rate(self.trainer_class, self.config_init["trainer"], self.model, self.datamodule, self.finder)
        say(f"{NAME}: the loss fell fastest at {rate:g}; the run starts with --model.optimizer.lr {rate:g}")
        return ["--model.optimizer.lr", f"{rate:g}"]

    def _finished(self) -> bool:
        if "optimizer_states" not in self.checkpoint:
            raise UsageError(
                f"{self.checkpoint_path} holds weights only; resume from {LAST}, or start anew with "
                f"--init_from {shlex.quote(str(self.checkpoint_path))}"
            )
        message = finished(self.checkpoint, self.trainer, self._run_name())
        if message is None:
            return False
        say(message)
        return True

    @rank_zero_only
    def _open_run(self) -> None:
        assert self.directory is not None
        if self.resumed == self.directory:
            write_config(self.directory, self.record)
        else:
            origin = provenance(self.config.seed_everything, self.datamodule.split_hash)
            sources = own_sources(made for _, made in callables(self.config))
            create_run(self.directory, self.record, origin, sources, link=not self.config.run_dir)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                start_wandb(logger, self.metrics_file)
            logger.log_hyperparams({**self.record, "versions": versions()})
        say(opening(self.directory, self.model, self.datamodule, self.trainer, self.precision_reason))

    @rank_zero_only
    def _close_run(self) -> None:
        assert self.directory is not None
        best, can_test = self.config.best, self.datamodule.has_test
        say(closing(self.directory, best.monitor, best.mode, self.trainer, can_test))

    def _validate(self) -> None:
        self._report(self.trainer.validate(self.model, verbose=False, **self._evaluated()))

    def _test(self) -> None:
        self._report(self.trainer.test(self.model, verbose=False, **self._evaluated()))

    def _evaluated(self) -> dict[str, Any]:
        self.model.flip_tta = self.config.flip_tta
        if self.trainer.is_global_zero:
            self.datamodule.prepare_data()
            self._compare_data()
        return {"datamodule": self.datamodule, "ckpt_path": self.checkpoint_path, "weights_only": True}

    def _compare_data(self) -> None:
        """Refuses other data than the checkpoint's, before weights are loaded that may not even fit their classes."""
        if self.command == "predict" and self.config.images:
            return
        for state in self.checkpoint.values():
            if isinstance(state, dict) and "split_hash" in state:  # under the name of the source, whichever it was
                self.datamodule.load_state_dict(state)

    @rank_zero_only
    def _report(self, results: Any) -> None:
        metrics = results[0]
        averaged = "  with flip averaging" if self.model.flip_tta else ""
        say(f"{scores(metrics)}{averaged}  ({self.checkpoint_path}, step {self.checkpoint['global_step']:,})")
        if self.checkpoint_path and (run := run_directory(self.checkpoint_path)):
            found = {"step": self.checkpoint["global_step"], "split_hash": self.datamodule.split_hash}
            found |= {"flip_tta": self.model.flip_tta, "given": self.overrides, **metrics}
            append_evaluation(run, self.command, self.checkpoint_path, found)

    def _predict(self) -> None:
        self.trainer.predict(self.model, return_predictions=False, **self._evaluated())
        say(f"{counted(self.table.rows, 'prediction')} in {self.table.path}")

    def _output(self) -> Path:
        path = Path(self.config.output)
        if not path.parent.is_dir():
            raise RunError(f"output: there is no directory {path.parent}")
        return path


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning COMMAND ARGUMENTS`` does; raises what :mod:`resnet18.__main__` turns into an exit status."""
    program = Program(command, arguments)
    if found := program.find_rate():
        program = Program(command, [*arguments, *found])
    program.start()
