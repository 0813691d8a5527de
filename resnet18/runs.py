"""One directory a run, and the way back from a directory to a model.

``runs/<experiment>/<run id>/`` holds ``config.yaml``, ``provenance.json``, ``metrics.csv``, ``checkpoints/`` and the
offline W&B run in ``wandb/``; ``runs/<experiment>/latest`` links to the newest.

    >>> from resnet18 import load_run
    >>> run = load_run("runs/digits/latest")
    >>> run.model(images).argmax(1)                              # uint8 N×C×H×W in, logits out
    >>> steps, top1 = run.curve("val/top1")
"""

import csv
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from resnet18.checkpoints import CONFIG_KEY, FOLDER, find_checkpoint, read_checkpoint, run_directory
from resnet18.class_paths import missing_module, refuse_foreign_code
from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.errors import RunError, UsageError

CONFIG, PROVENANCE, METRICS = "config.yaml", "provenance.json", "metrics.csv"
LATEST = "latest"


def new_run_id() -> str:
    """Sorts by time; the last four digits keep runs apart that start within a second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def create_run(directory: Path, config: dict[str, Any], provenance: dict[str, Any], link: bool) -> None:
    """Makes the directory of a new run and writes down what it is.

    Args:
        directory: Must not hold anything yet.
        config: The resolved configuration.
        provenance: See :func:`resnet18.provenance.provenance`.
        link: Let ``latest`` beside it point to it.

    Raises:
        UsageError: Where the directory already holds something.
        RunError: Where it can't be written.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"run_dir: {directory} is not empty; --ckpt_path {directory} goes on with the run in it")
    try:
        (directory / FOLDER).mkdir(parents=True)
        write_config(directory, config)
        (directory / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        if link:
            # Made under another name and renamed: a reader finds the old run or the new one, never none.
            partial = directory.with_name(f".{LATEST}-{directory.name}")
            partial.symlink_to(directory.name)
            partial.replace(directory.with_name(LATEST))
    except OSError as error:
        raise RunError(f"run_dir: {directory} can't be written: {error.strerror}") from None


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Writes a run's ``config.yaml``, whole or not at all."""
    partial = directory / f".{CONFIG}"
    partial.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    partial.replace(directory / CONFIG)


@dataclass(frozen=True)
class Run:
    """A trained run, or a checkpoint on its own; what is looked at is loaded when it is looked at first."""

    checkpoint_path: Path
    directory: Path | None
    data_options: dict[str, Any] = field(default_factory=dict)
    """What is to be other than configured when the data are looked at."""

    @cached_property
    def _checkpoint(self) -> dict[str, Any]:
        return read_checkpoint(self.checkpoint_path)

    @property
    def config(self) -> dict[str, Any]:
        """The whole resolved configuration."""
        return stored_config(self._checkpoint, self.checkpoint_path)

    @cached_property
    def model(self) -> Classifier:
        """With the checkpoint's weights, in evaluation mode."""
        return Classifier.load_from_checkpoint(self.checkpoint_path).eval()

    @cached_property
    def data(self) -> ImageDataModule:
        """The data source as configured; call its ``setup`` before its loaders.

        Raises:
            RunError: Where it can't be made, for its files are elsewhere now, say, or its module is.
        """
        config = self.config
        options = {"seed": config["seed_everything"], **self.data_options}
        config["data"].setdefault("init_args", {}).update(options)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(ImageDataModule, "data")
        try:
            parsed = parser.parse_object({"data": config["data"]})
        except ArgumentError as error:
            reason = missing_module(error) or shorten(str(error), 300)
            raise RunError(f"{self.checkpoint_path}: {reason}") from None
        refuse_foreign_code(parsed, str(self.checkpoint_path))
        try:
            return parser.instantiate(parsed).data
        except ValueError as error:
            # jsonargparse tells of all that the value is not; what the source said is the cause.
            reason = str(error.__cause__ or error)
            elsewhere = "; load_run(…, data={'root': …}) says where it is now" if reason.startswith("data.root") else ""
            raise RunError(f"{self.checkpoint_path}: {reason}{elsewhere}") from None

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv``, each with the metrics logged together."""
        return read_metrics(self.directory) if self.directory else []

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """After how many optimizer steps a metric was logged, and its values.

        Raises:
            KeyError: For a metric that was never logged, with those that were.
        """
        rows = [row for row in self.metrics if metric in row]
        if not rows:
            logged = sorted({name for row in self.metrics for name in row} - {"epoch", "step"})
            raise KeyError(f"{metric} was not logged; {', '.join(logged) or 'nothing'} was")
        # Lightning logs the number of the step, counted from 0.
        return [int(row["step"]) + 1 for row in rows], [row[metric] for row in rows]


def load_run(place: str | os.PathLike[str], data: dict[str, Any] | None = None) -> Run:
    """A run by its directory (its best checkpoint is taken) or by a checkpoint file.

    Args:
        place: Which.
        data: Options of its data source that are other here than where it was trained: ``{"root": "elsewhere"}``.

    Raises:
        RunError: Where there is none, or it is broken.
    """
    checkpoint = find_checkpoint(Path(place))
    return Run(checkpoint, run_directory(checkpoint), data or {})


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The rows of a run's ``metrics.csv`` without their empty cells."""
    if not (directory / METRICS).exists():  # nothing was logged
        return []
    with (directory / METRICS).open(newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def stored_config(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration that a checkpoint carries.

    Raises:
        RunError: For a file that is not from a run of this project.
    """
    config = checkpoint.get(CONFIG_KEY)
    if not isinstance(config, dict) or "state_dict" not in checkpoint:
        raise RunError(
            f"{path} holds no configuration, so it is not a checkpoint of a run; "
            "a plain state dict starts a new run: lightning fit --init_from"
        )
    return json.loads(json.dumps(config))  # a copy of its own, for the caller to change
