"""``lightning fit``: the checks before a run has a directory, and the run."""

import shlex
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.cli import lr_finder
from resnet18.cli.arguments import say
from resnet18.cli.dry_run import check_forward, check_scoring
from resnet18.cli.explain import KeyedError
from resnet18.cli.messages import closing, finished, opening
from resnet18.cli.trainer_parts import check_clipping, check_limits, check_resuming
from resnet18.engine.loops import batches_into_epoch, is_dry_run, limited_batches, planned_steps
from resnet18.errors import UsageError
from resnet18.storage.checkpoints import LAST, load_pretrained
from resnet18.storage.class_paths import callables
from resnet18.storage.loggers import start_wandb
from resnet18.storage.provenance import own_sources, provenance, versions
from resnet18.storage.records import create_run, write_config

if TYPE_CHECKING:
    from resnet18.cli.program import Program


def fit(program: "Program") -> None:
    """Trains into a new directory, or into that of the resumed run."""
    model, trainer = program.model, program.trainer
    model.run_config = program.record
    if program.checkpoint_path is not None:
        if "optimizer_states" not in program.checkpoint:
            raise UsageError(
                f"{program.checkpoint_path} holds weights only; resume from {LAST}, or start anew with "
                f"--init_from {shlex.quote(str(program.checkpoint_path))}"
            )
        if message := finished(program.checkpoint, trainer, program.inputs.run_name()):
            say(message)
            return
        check_resuming(trainer)
    elif program.config.init_from:
        say(load_pretrained(model.backbone, program.config.init_from))
    if trainer.is_global_zero:
        check(program)
        if not is_dry_run(trainer):
            _open_run(program)
    trainer.fit(model, datamodule=program.datamodule, ckpt_path=program.checkpoint_path, weights_only=True)
    if not is_dry_run(trainer):
        _close_run(program)


def check(program: "Program") -> None:
    """Refuses what is wrong or does not go together before anything is written."""
    trainer, data = program.trainer, program.datamodule
    data.prepare_data()
    try:
        data.setup("fit")
        batches = data.batches(trainer.world_size)
    except (ValueError, TypeError) as error:
        raise program.usage_error(error, "data") from error
    check_limits(trainer, batches, data)
    program.check_recipe(planned_steps(trainer, limited_batches(trainer, batches)))
    check_clipping(trainer, program.model.make_optimizer())
    program.compare_data()
    data.check_resumed_epoch(trainer, batches_into_epoch(program.checkpoint))
    check_forward(program.model, data.input_size, trainer.strategy.root_device)
    try:
        check_scoring(program.model, data.train.labels[:16])
    except KeyedError as error:
        raise program.inputs.located(error) from None


def find_rate(program: "Program") -> list[str]:
    """Runs a LearningRateFinder; returns the option with its rate. The program can't be used afterwards."""
    if program.command != "fit" or program.finder is None or is_dry_run(program.trainer):
        return []
    model, data = program.model, program.datamodule
    lr_finder.check_search(model, program.trainer.world_size, program.checkpoint_path is not None)
    if program.config.init_from:
        load_pretrained(model.backbone, program.config.init_from)
    check(program)
    rate = lr_finder.find_rate(program.trainer_class, program.config_init["trainer"], model, data, program.finder)
    say(f"{lr_finder.NAME}: the loss fell fastest at {rate:g}; the run starts with --model.optimizer.lr {rate:g}")
    return ["--model.optimizer.lr", f"{rate:g}"]


@rank_zero_only
def _open_run(program: "Program") -> None:
    assert program.directory is not None
    if program.resumes:
        write_config(program.directory, program.record)
    else:
        origin = provenance(program.config.seed_everything, program.datamodule.split_hash)
        sources = own_sources([program.inputs.model_class, *(made for _, made in callables(program.config))])
        create_run(program.directory, program.record, origin, sources, link=not program.config.run_dir)
    for logger in program.trainer.loggers:
        if isinstance(logger, WandbLogger):
            start_wandb(logger, program.metrics_file)
        logger.log_hyperparams({**program.record, "versions": versions()})
    say(opening(program.directory, program.model, program.datamodule, program.trainer, program.precision_reason))


@rank_zero_only
def _close_run(program: "Program") -> None:
    assert program.directory is not None
    best, can_test = program.config.best, program.datamodule.has_test
    say(closing(program.directory, best.monitor, best.mode, program.trainer, can_test))
