"""The program behind ``lightning fit``, ``validate``, ``test`` and ``predict``.

A LightningCLI with one directory a run, configurations that come back from checkpoints, and errors in a few lines.
:mod:`resnet18.__main__` is what the scripts call; it answers ``--help`` without importing any of this.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from resnet18.arguments import Arguments, say
from resnet18.callbacks.finite import FiniteLoss
from resnet18.callbacks.interrupt import GracefulStop, SavingStop
from resnet18.callbacks.predictions import PredictionTable
from resnet18.callbacks.progress import EpochLines
from resnet18.callbacks.seeding import StepSeeding
from resnet18.checkpoint_files import BackgroundFiles
from resnet18.checkpoints import FOLDER, LAST, run_directory
from resnet18.config_files import leaves, shown
from resnet18.config_values import FOLDER_NAMES, can_name_a_folder
from resnet18.errors import RunError, UsageError
from resnet18.loggers import MetricsFile, start_wandb, wandb_without_questions
from resnet18.messages import closing, finished, opening, scores
from resnet18.parser import KeyedError, make
from resnet18.position import is_dry_run, planned_steps
from resnet18.profiling import NoProfiler
from resnet18.provenance import provenance, versions
from resnet18.ranks import ending_together, prepare_ranks
from resnet18.runs import METRICS, create_run, new_run_id, write_config
from resnet18.trial import check_monitors, try_one_image, try_schedule
from resnet18.warm_start import start_from

STORED = ("experiment", "seed_everything", "model", "data", "trainer", "best", "last", "init_from")


class Program(Arguments):
    """One command, parsed and made, and ready to :meth:`start`. Its arguments are those of :class:`Arguments`."""

    directory: Path | None = None

    def before_instantiate_classes(self) -> None:
        dumped = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False)
        config = yaml.safe_load(dumped)
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
            arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
            if arguments is None:
                continue
            if "save_dir" in arguments:
                arguments["save_dir"] = str(self.directory.absolute())  # W&B's service works in a directory of its own
            if logger.class_path.endswith("WandbLogger"):
                arguments["id"] = self.run_id
                arguments["name"] = arguments.get("name") or f"{self.experiment}/{self.run_id}"

    def instantiate_classes(self) -> None:
        wandb_without_questions()
        try:
            self.config_init = self.parser.instantiate(self.config)
        except (ValueError, TypeError, MisconfigurationException) as error:
            # The parser knows which class it was; else it was a function, and only a backbone is made by one here.
            raise self._refused(error, "model.backbone") from error
        self.datamodule, self.model = self.config_init["data"], self.config_init["model"]
        self.trainer = self.instantiate_trainer()
        if self.command != "fit":
            return
        try:  # before the data are touched, which may take a download
            check_monitors(self.trainer.callbacks)  # type: ignore[attr-defined]
        except ValueError as error:
            watched = {key: value for key, value in leaves(self.config) if key.endswith(".monitor")}
            key = next(key for key, value in watched.items() if f"not {value}" in str(error))
            raise UsageError(f"{self._culprit(key)}{shown(key)}: {error}") from None
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
        given = settings["callbacks"] or []
        callbacks: list[Callback] = list(given) if isinstance(given, list) else [given]
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
            best.dirpath = str((self.directory / FOLDER).absolute())
            last.dirpath = self.directory / FOLDER
            stop = SavingStop(last)
            callbacks += [FiniteLoss(stop, last), best, last, stop]
            plugins = settings["plugins"] or []
            plugins = plugins if isinstance(plugins, list) else [plugins]
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                settings["plugins"] = [*plugins, BackgroundFiles()]
        settings["default_root_dir"] = str(self.directory)
        loggers = settings["logger"] or []
        resume_step = self.checkpoint["global_step"] if self.resumed == self.directory else None
        metrics = MetricsFile(self.directory / METRICS, resume_step)
        settings["logger"] = [*(loggers if isinstance(loggers, list) else [loggers]), metrics]

    def _trainer(self, settings: dict[str, Any]) -> Trainer:
        settings["profiler"] = settings["profiler"] or NoProfiler()
        try:
            trainer = self.trainer_class(**settings)
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            raise self._refused(error, "trainer") from error
        last = self.config_init["last"] if self.command == "fit" else None
        prepare_ranks(trainer, self.command, last, settings["sync_batchnorm"] is True)
        return trainer

    def start(self) -> None:
        """Runs the command to its end."""
        status = 1
        try:
            with ending_together(self.trainer):
                getattr(self, f"_{self.command}")()
            status = 0
        finally:
            self.datamodule.teardown(self.command)
            for logger in self.trainer.loggers:
                if isinstance(logger, WandbLogger) and self.trainer.is_global_zero and logger._experiment is not None:
                    logger.experiment.finish(exit_code=status)  # by which W&B shows whether it failed

    def _fit(self) -> None:
        self.model.run_config = self.record
        if self.checkpoint_path is None and self.config.init_from:
            say(start_from(self.model.backbone, self.config.init_from))
        if self.checkpoint_path is not None and self._finished():
            return
        if self.trainer.is_global_zero:
            # Before anything is written: what is wrong with the data shows here.
            self.datamodule.prepare_data()
            try:
                self.datamodule.setup("fit")
                batches = self.datamodule.batches(self.trainer.world_size)
            except (ValueError, TypeError) as error:
                raise self._refused(error, "data") from error
            self._try_recipe(planned_steps(self.trainer, batches))
            self._compare_data()
            try_one_image(self.model, self.datamodule.input_size, self.trainer.strategy.root_device)
            if not is_dry_run(self.trainer):
                self._open_run()
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.checkpoint_path, weights_only=True)
        if not is_dry_run(self.trainer):
            self._close_run()

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
            create_run(self.directory, self.record, origin, link=not self.config.run_dir)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                start_wandb(logger)
            logger.log_hyperparams({**self.record, "versions": versions()})
        say(opening(self.directory, self.model, self.datamodule, self.trainer))

    @rank_zero_only
    def _close_run(self) -> None:
        assert self.directory is not None
        best = self.config.best
        say(closing(self.directory, best.monitor, best.mode, self.trainer.current_epoch))

    def _validate(self) -> None:
        self._report("val", self.trainer.validate(self.model, verbose=False, **self._evaluated()))

    def _test(self) -> None:
        self._report("test", self.trainer.test(self.model, verbose=False, **self._evaluated()))

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
    def _report(self, stage: str, results: Any) -> None:
        metrics = results[0]
        averaged = "  with flip averaging" if self.model.flip_tta else ""
        say(f"{scores(metrics)}{averaged}  ({self.checkpoint_path}, step {self.checkpoint['global_step']:,})")
        run = run_directory(self.checkpoint_path) if self.checkpoint_path else None
        if run is not None and stage == "test":
            record = {"checkpoint": str(self.checkpoint_path), "split_hash": self.datamodule.split_hash}
            record |= {"flip_tta": self.model.flip_tta, **metrics}
            (run / "test.json").write_text(json.dumps(record, indent=2) + "\n")

    def _predict(self) -> None:
        self.trainer.predict(self.model, return_predictions=False, **self._evaluated())
        say(f"{self.table.rows:,} predictions in {self.table.path}")

    def _output(self) -> Path:
        path = Path(self.config.output)
        if not path.parent.is_dir():
            raise RunError(f"output: there is no directory {path.parent}")
        return path


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning COMMAND ARGUMENTS`` does; raises what :mod:`resnet18.__main__` turns into an exit status."""
    Program(command, arguments).start()
