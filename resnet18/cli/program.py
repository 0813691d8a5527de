"""The program behind ``lightning fit``, ``validate``, ``test`` and ``predict``: Lightning's CLI, extended.

Each run has one directory, checkpoints bring their configurations, and errors take a few lines.
"""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from resnet18.callbacks.evaluation import EvaluationRecord
from resnet18.callbacks.progress import EpochLines
from resnet18.cli.arguments import Arguments, say, warn
from resnet18.cli.dry_run import check_schedule
from resnet18.cli.explain import KeyedError
from resnet18.cli.lr_finder import take_finder
from resnet18.cli.messages import scores
from resnet18.cli.monitors import follow_metrics
from resnet18.cli.parser import make
from resnet18.cli.run_place import add_writers, name_loggers, place_run, run_name
from resnet18.cli.tracking import track_evaluation
from resnet18.cli.trainer_parts import as_list, check_flags, clip_fused
from resnet18.engine.overhead import profiler_into, report_of
from resnet18.engine.precision import choose_precision, emulation_warning, plugin_decides
from resnet18.engine.ranks import exit_together, prepare_ranks
from resnet18.engine.seeding import StepSeeding
from resnet18.errors import RunError
from resnet18.report.page import write_report
from resnet18.storage.checkpoints import run_directory
from resnet18.storage.metrics_file import MetricsFile
from resnet18.storage.networks import resize_head
from resnet18.storage.records import METRICS, append_evaluation
from resnet18.storage.wandb_start import wandb_without_questions

STORED = ("experiment", "seed_everything", "model", "data", "trainer", "best", "last", "init_from")


class Program(Arguments):
    """One command, with its objects made, ready to :meth:`start`."""

    directory: Path | None = None  # where a run writes
    resumes = False  # whether the directory's own run is resumed

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        return self  # a module's optimizer and schedule reach it: copies of the module share it

    def before_instantiate_classes(self) -> None:
        self._choose_precision()
        self.finder, _ = take_finder(self.config.trainer), take_finder(self.given.get("trainer", Namespace()))
        dumped = self.parser.dump(self.config, skip_link_targets=True, skip_unset=False)
        # jsonargparse writes this before a name that may be a function's: ModelPruning's pruning_fn.
        config = yaml.safe_load(dumped.replace("Unable to serialize instance ", ""))
        self.set_num_classes()
        self.parser.add_instantiator(make, object)  # all that are not Lightning's own two
        if self.command != "fit":
            self.config.trainer.logger = False  # W&B's would make its directory
            return
        try:
            place = place_run(self.config, self.inputs)
            if self.config.trainer.logger is True:
                self.config.trainer.logger = self.parser.get_defaults().trainer.logger
            name_loggers(self.config.trainer.logger, place)
        except KeyedError as error:
            raise self.inputs.located(error) from None
        self.directory, self.resumes = place.directory, place.resumes
        self.record: dict[str, Any] = {key: config[key] for key in STORED if key in config}
        self.record["experiment"] = place.experiment
        self.run_name = run_name(place, self.inputs, self.record)

    def _choose_precision(self) -> None:
        """Fills in a precision that was left out, before the configuration is stored: a run keeps its own."""
        trainer = self.config.trainer
        self.precision_reason = "as configured" if self.inputs.stored is None else "the run's own"
        if trainer.precision is not None or plugin_decides(trainer.plugins):
            return
        if self.inputs.stored is not None:
            trainer.precision = "32-true"  # what Lightning takes for none
        else:
            trainer.precision, self.precision_reason = choose_precision(trainer.accelerator)

    def instantiate_classes(self) -> None:
        wandb_without_questions(self._run())
        try:
            made = self.config_init = self.parser.instantiate(self.config)
        except (ValueError, TypeError, MisconfigurationException) as error:
            # The parser knows the class at fault; otherwise it was a function, and only a backbone is made by one.
            raise self.usage_error(error, "model.backbone") from error
        self.datamodule, self.model = made["data"], made["model"]
        if self.fixed_width:
            try:
                resized = resize_head(self.model.backbone, self.model.num_classes)
            except ValueError as error:
                raise self.inputs.located(KeyedError("model.backbone", str(error))) from None
            if resized and self.checkpoint_path is None and self.announce:
                say(f"model.backbone: {resized}")
        try:
            if self.command == "fit":
                follow_metrics(self.config, self.given, self.record, made["trainer"], self.model)
            self.trainer = self.instantiate_trainer()
        except KeyedError as error:
            raise self.inputs.located(error) from None
        trainer = self.config.trainer
        if self.announce and (warning := emulation_warning(trainer.precision, trainer.accelerator)):
            warn(warning)
        if self.command == "fit":  # before the data are touched, which may take a download
            self.check_recipe()

    def check_recipe(self, total_steps: float = 1) -> None:
        """Tries the optimizer and the schedule of a run of this length."""
        key = "model.optimizer"
        try:
            self.model.make_optimizer()
            key = "model.schedule"
            check_schedule(self.model, total_steps)
        except KeyedError as error:
            raise self.inputs.located(error) from None
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            raise self.usage_error(error, key) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = {**self.config_init["trainer"], **kwargs}
        check_flags(self.command, settings)
        callbacks: list[Callback] = as_list(settings["callbacks"])
        own_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if self.command == "fit":
            callbacks.append(StepSeeding(self.config.seed_everything))
        if settings["enable_progress_bar"] is not False and not own_bar:
            callbacks.append(EpochLines())
        if self.command != "predict":
            self.evaluation = EvaluationRecord(None if settings["fast_dev_run"] else self._run())
            callbacks.append(self.evaluation)
        if self.command == "fit" and not settings["fast_dev_run"]:
            assert self.directory is not None
            best, last = self.config_init["best"], self.config_init["last"]
            add_writers(settings, callbacks, self.directory, best, last, self.model)
            step = self.checkpoint["global_step"] if self.resumes else None
            self.metrics_file = MetricsFile(self.directory / METRICS, step)
            settings["logger"] = [*as_list(settings["logger"] or None), self.metrics_file]
        settings["callbacks"] = callbacks
        return self._trainer(settings)

    def _trainer(self, settings: dict[str, Any]) -> Trainer:
        settings["profiler"] = profiler_into(None if settings["fast_dev_run"] else self._run(), settings["profiler"])
        try:
            trainer = self.trainer_class(**settings)
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise self.usage_error(error, "trainer") from error  # also for missing hardware
        if not trainer.is_global_zero:  # whose directory is another
            settings["profiler"].dirpath = settings["profiler"].filename = None
        clip_fused(trainer)
        last = self.config_init["last"] if self.command == "fit" else None
        prepare_ranks(trainer, self.command, last, settings["sync_batchnorm"] is True)
        return trainer

    def _run(self) -> Path | None:
        """The directory of the run that is trained, or that was trained."""
        return run_directory(self.checkpoint_path) if self.command != "fit" and self.checkpoint_path else self.directory

    def start(self) -> None:
        """Runs the command to its end."""
        try:
            with exit_together(self.trainer):
                getattr(self, f"_{self.command}")()
            if report := report_of(self.trainer):
                say(f"profile {report}")
        except (MisconfigurationException, TrainingSpikeException) as error:  # Lightning's, in mid-run
            raise RunError(" ".join(str(error).split())) from error
        finally:
            self.datamodule.teardown(self.command)

    def _validate(self) -> None:
        self._report(self.trainer.validate(self.model, verbose=False, **self._evaluated()))

    def _test(self) -> None:
        self._report(self.trainer.test(self.model, verbose=False, **self._evaluated()))

    def _evaluated(self) -> dict[str, Any]:
        self.model.flip_tta = self.config.flip_tta
        if self.trainer.is_global_zero:
            self.datamodule.prepare_data()
            self.compare_data()
        return {"datamodule": self.datamodule, "ckpt_path": self.checkpoint_path, "weights_only": True}

    def compare_data(self) -> None:
        """Refuses other data than the checkpoint's, before loading weights that may not fit their classes."""
        for state in self.checkpoint.values():
            if isinstance(state, dict) and "split_hash" in state:  # stored under the source's name
                self.datamodule.load_state_dict(state)

    def _report(self, results: Any) -> None:
        place = {"step": self.checkpoint["global_step"], "flip_tta": self.model.flip_tta, "given": self.overrides}
        if (run := self._run()) and self.checkpoint_path:
            checkpoint = self.checkpoint_path.resolve().relative_to(run.resolve()).as_posix()
            place |= {"checkpoint": checkpoint, "epoch": self.checkpoint["epoch"]}
        part = "val" if self.command == "validate" else "test"
        try:
            self.evaluation.write(self.trainer, part, place)  # on all ranks
        except RunError as error:  # as in another user's run
            warn(str(error))
        self._print_scores(results[0])

    @rank_zero_only
    def _print_scores(self, metrics: dict[str, float]) -> None:
        averaged = "  with flip averaging" if self.model.flip_tta else ""
        say(f"{scores(metrics)}{averaged}  ({self.checkpoint_path}, step {self.checkpoint['global_step']:,})")
        if (run := self._run()) and self.checkpoint_path:
            found = {"step": self.checkpoint["global_step"], "split_hash": self.datamodule.split_hash}
            found |= {"flip_tta": self.model.flip_tta, "given": self.overrides, **metrics}
            append_evaluation(run, self.command, self.checkpoint_path, found)
            track_evaluation(run, self.command, self.checkpoint, found)
            self.write_report()

    def write_report(self) -> None:
        """Writes the run's page anew, unless that is switched off; a run does not fail by it."""
        if (run := self._run()) and self.config.report:
            try:
                write_report(run)
            except RunError as error:
                warn(f"report: {error}")


def run(command: str, arguments: list[str]) -> None:
    """Runs ``lightning COMMAND ARGUMENTS``; :mod:`resnet18.__main__` turns errors into an exit status."""
    Program(command, arguments).start()
