"""A run's directory, and the loggers and checkpoints that write there."""

import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.loggers import WandbLogger

from resnet18.classifier import Classifier
from resnet18.cli.command_inputs import Inputs
from resnet18.cli.config_files import leaves, shown
from resnet18.cli.explain import KeyedError
from resnet18.cli.trainer_parts import as_list, prepare_callbacks
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.engine.divergence import FiniteLoss
from resnet18.engine.stopping import GracefulStop, SavingStop
from resnet18.storage import overview
from resnet18.storage.checkpoint_io import BackgroundCheckpointIO
from resnet18.storage.checkpoints import run_directory
from resnet18.storage.class_paths import import_object
from resnet18.storage.records import FOLDER, new_run_id

NAME = 90  # characters of a W&B run's name, which has at most 128


@dataclass
class Place:
    """A run's names, and its directory."""

    experiment: str
    run_id: str
    directory: Path
    resumes: bool  # whether the directory's own run is resumed


def place_run(config: Namespace, inputs: Inputs) -> Place:
    """Chooses where a run writes; refuses an experiment's name that leads out of runs/."""
    resumed = run_directory(inputs.checkpoint_path) if inputs.checkpoint_path else None
    source = str(config.data.class_path).rpartition(".")[2].lower()
    experiment = inputs.config_paths[0].stem if inputs.config_paths else source
    experiment = experiment if config.experiment is None else config.experiment
    leads_elsewhere = experiment[:1] in ("", ".") or not experiment.isprintable() or {*"/\\"} & set(experiment)
    if not resumed and leads_elsewhere:
        allowed = "without slashes, control characters or a dot at its start"
        raise KeyedError("experiment", f"must be a name {allowed}, not {experiment!r}")
    # W&B gives a sweep's trial its id. On several ranks rank 0's counts; the writers get it from there.
    given = os.environ.get("WANDB_RUN_ID")
    run_id = given or new_run_id()
    directory = Path(config.run_dir) if config.run_dir else resumed or Path("runs", experiment, run_id)
    run_id = directory.name if not given and (config.run_dir or resumed) else run_id
    return Place(experiment, run_id, directory, directory == resumed)


def name_loggers(loggers: Any, place: Place) -> None:
    """Gives every logger the run's directory, and W&B's the run's id; refuses W&B's settings, which may hold a key."""
    for logger in as_list(loggers):
        if not isinstance(logger, Namespace) or (arguments := logger.get("init_args")) is None:
            continue
        if "save_dir" in arguments:
            arguments["save_dir"] = str(place.directory.absolute())  # W&B's service has another working directory
        made = import_object(logger.class_path)
        if isinstance(made, type) and issubclass(made, WandbLogger):
            if arguments.get("settings") is not None:
                meant = "set W&B's settings in the environment (WANDB_BASE_URL, WANDB_API_KEY, …)"
                raise KeyedError("trainer.logger.settings", f"can't be given, for a run keeps its options; {meant}")
            arguments["id"] = place.run_id


def run_name(place: Place, inputs: Inputs, record: dict[str, Any]) -> str:
    """The experiment, what options and all configuration files but the first set, and the id's last characters."""
    typed = [argument.partition("=")[0].removeprefix("--") for argument in inputs.arguments if argument[:2] == "--"]
    keys = [shown(key) for key in (*typed, *(key for _, content in inputs.files[1:] for key, _ in leaves(content)))]
    values = overview.leaves({name: value for name, value in record.items() if name not in overview.NOT_COMPARED})
    keys = dict.fromkeys(key.removesuffix(".class_path") for key in keys)
    keys = sorted(keys, key=lambda key: key.startswith("trainer."))  # the others tell more
    names = overview.short_names(key for key in keys if key in values and not key.startswith("trainer.logger"))
    differs = " ".join(f"{name}={overview.shown(values[key])}" for key, name in names.items())
    return " ".join(filter(None, (place.experiment, shorten(differs, NAME, placeholder=" …"), place.run_id[-4:])))


def add_writers(
    settings: dict[str, Any],
    callbacks: list[Callback],
    directory: Path,
    best: BestCheckpoint,
    last: LastCheckpoint,
    model: Classifier,
) -> None:
    """Adds the run's checkpoint writers to a Trainer's settings and callbacks."""
    settings["default_root_dir"] = str(directory)
    if settings["enable_checkpointing"] is False:
        stop = GracefulStop()
        callbacks += [FiniteLoss(stop, last=None), stop]
        return
    prepare_callbacks(callbacks, directory / FOLDER, best, last, model)
    best.dirpath = str((directory / FOLDER).absolute())
    last.dirpath = directory / FOLDER
    stop = SavingStop(last)
    watched = [] if settings["limit_val_batches"] == 0 else [best]
    callbacks += [FiniteLoss(stop, last), *watched, last, stop]
    plugins = as_list(settings["plugins"])
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        settings["plugins"] = [*plugins, BackgroundCheckpointIO()]
