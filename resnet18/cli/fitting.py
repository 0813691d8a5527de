"""``lightning fit``: the checks before a run has a directory, and the run."""

import shlex
import signal
from textwrap import shorten

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.cli import lr_finder
from resnet18.cli.arguments import say
from resnet18.cli.dry_run import check_forward, check_scoring
from resnet18.cli.explain import KeyedError
from resnet18.cli.messages import closing, finished, opening
from resnet18.cli.program import Program
from resnet18.cli.tracking import described, finish_tracking
from resnet18.cli.trainer_parts import check_clipping, check_limits, check_resuming
from resnet18.engine.loops import batches_into_epoch, is_dry_run, limited_batches, planned_steps
from resnet18.engine.stopping import Interrupted
from resnet18.errors import DivergedError, UsageError
from resnet18.storage.checkpoints import load_pretrained
from resnet18.storage.class_paths import callables
from resnet18.storage.provenance import own_sources, provenance
from resnet18.storage.records import LAST, create_run, write_config
from resnet18.storage.status import DIVERGED, FAILED, FINISHED, STOPPED, Status
from resnet18.storage.wandb_start import start_wandb


class Fit(Program):
    """The command that trains."""

    status: Status | None = None  # of a run with a directory, on rank 0

    def start(self) -> None:
        """Trains, and notes in the run's directory how that ended."""
        state, reason = FINISHED, ""
        try:
            super().start()
        except BaseException as error:
            state, reason = _ending(error)
            raise
        finally:
            if self.status is not None and self.directory is not None:
                finish_tracking(self.trainer.loggers, self.directory, ended=state == FINISHED)
                self.status.close(state, reason)
                self.write_report()

    def _fit(self) -> None:
        """Trains into a new directory, or into that of the resumed run."""
        model, trainer = self.model, self.trainer
        model.run_config = self.record
        if self.checkpoint_path is not None:
            if "optimizer_states" not in self.checkpoint:
                raise UsageError(
                    f"{self.checkpoint_path} holds weights only; resume from {LAST}, or start anew with "
                    f"--init_from {shlex.quote(str(self.checkpoint_path))}"
                )
            if message := finished(self.checkpoint, trainer, self.inputs.run_name()):
                say(message)
                return
            check_resuming(trainer)
        elif self.config.init_from:
            say(load_pretrained(model.backbone, self.config.init_from))
        if trainer.is_global_zero:
            self.check()
            if not is_dry_run(trainer):
                self._open_run()
        trainer.fit(model, datamodule=self.datamodule, ckpt_path=self.checkpoint_path, weights_only=True)
        if not is_dry_run(trainer):
            self._close_run()

    def check(self) -> None:
        """Refuses what is wrong or does not go together before anything is written."""
        trainer, data = self.trainer, self.datamodule
        data.prepare_data()
        try:
            data.setup("fit")
            batches = data.batches(trainer.world_size)
        except (ValueError, TypeError) as error:
            raise self.usage_error(error, "data") from error
        check_limits(trainer, batches, data)
        self.check_recipe(planned_steps(trainer, limited_batches(trainer, batches)))
        check_clipping(trainer, self.model.make_optimizer())
        self.compare_data()
        data.check_resumed_epoch(trainer, batches_into_epoch(self.checkpoint))
        check_forward(self.model, data.input_size, trainer.strategy.root_device)
        try:
            check_scoring(self.model, data.train.labels[:16])
        except KeyedError as error:
            raise self.inputs.located(error) from None

    def find_rate(self) -> list[str]:
        """Runs a LearningRateFinder; returns the option with its rate. It can't be used afterwards."""
        if self.finder is None or is_dry_run(self.trainer):
            return []
        model, data = self.model, self.datamodule
        lr_finder.check_search(model, self.trainer.world_size, self.checkpoint_path is not None)
        if self.config.init_from:
            load_pretrained(model.backbone, self.config.init_from)
        self.check()
        rate = lr_finder.find_rate(self.trainer_class, self.config_init["trainer"], model, data, self.finder)
        say(f"{lr_finder.NAME}: the loss fell fastest at {rate:g}; the run starts with --model.optimizer.lr {rate:g}")
        return ["--model.optimizer.lr", f"{rate:g}"]

    @rank_zero_only
    def _open_run(self) -> None:
        assert self.directory is not None
        if self.resumes:
            write_config(self.directory, self.record)
        else:
            data = self.datamodule
            assert data.train is not None
            assert data.val is not None
            parameters = sum(parameter.numel() for parameter in self.model.backbone.parameters())
            size = {"parameters": parameters, "images": {"train": len(data.train), "val": len(data.val)}}
            origin = {"name": self.run_name, **provenance(self.config.seed_everything, data.split_hash), **size}
            sources = own_sources([self.inputs.model_class, *(made for _, made in callables(self.config))])
            create_run(self.directory, self.record, origin, sources, link=not self.config.run_dir)
        self.status = Status(self.directory)
        settings = {name: value for name, value in self.record["trainer"].items() if name != "logger"}
        found = {**self.record, "trainer": settings, **described(self.directory)}
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                start_wandb(logger, self.directory, self.metrics_file.rows())
            logger.log_hyperparams(found)
        say(opening(self.directory, self.model, self.datamodule, self.trainer, self.precision_reason))

    @rank_zero_only
    def _close_run(self) -> None:
        assert self.directory is not None
        best, can_test = self.config.best, self.datamodule.has_test
        say(closing(self.directory, best.monitor, best.mode, self.trainer, can_test, self.config.report))


def _ending(error: BaseException) -> tuple[str, str]:
    if isinstance(error, Interrupted):
        return STOPPED, signal.Signals(error.signum).name
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return STOPPED, "SIGINT"
    return DIVERGED if isinstance(error, DivergedError) else FAILED, shorten(str(error), 300)


def prepared(arguments: list[str]) -> Fit:
    """The program of ``lightning fit ARGUMENTS``, with the learning rate that a LearningRateFinder has found."""
    program = Fit("fit", arguments)
    if found := program.find_rate():
        program = Fit("fit", [*arguments, *found], announce=False)
    return program


def run(command: str, arguments: list[str]) -> None:
    """Runs ``lightning fit ARGUMENTS``."""
    prepared(arguments).start()
