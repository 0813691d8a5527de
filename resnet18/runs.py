"""One directory a run, and the way back from a directory to a model.

``runs/<experiment>/<run id>/`` holds ``config.yaml``, ``provenance.json``, the user's own modules in ``code/``,
``metrics.csv``, ``evaluations.jsonl``, ``checkpoints/`` and the offline W&B run in ``wandb/``;
``runs/<experiment>/latest`` links to the newest.

    >>> from resnet18 import load_run
    >>> run = load_run("runs/digits/latest")
    >>> run.model(images).argmax(1)                              # uint8 N×C×H×W in, logits out
    >>> steps, top1 = run.curve("val/top1")
    >>> run.evaluations[-1]["test/top1"]
"""

import contextlib
import csv
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.errors import RunError, UsageError
from resnet18.storage.checkpoints import CONFIG_KEY, FOLDER, find_checkpoint, read_checkpoint, run_directory
from resnet18.storage.class_paths import missing_module, refuse_foreign_code

CONFIG, PROVENANCE, METRICS, EVALUATIONS = "config.yaml", "provenance.json", "metrics.csv", "evaluations.jsonl"
CODE, LATEST = "code", "latest"


def new_run_id() -> str:
    """Sorts by time; the last four digits keep runs apart that start within a second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def create_run(
    directory: Path, config: dict[str, Any], provenance: dict[str, Any], sources: Mapping[str, bytes], link: bool
) -> None:
    """Makes the directory of a new run and writes down what it is.

    Args:
        directory: Must not hold anything yet.
        config: The resolved configuration.
        provenance: See :func:`resnet18.storage.provenance.provenance`.
        sources: Files of the user's own that it was made with, see :func:`resnet18.storage.provenance.own_sources`.
        link: Let ``latest`` beside it point to it, where the file system has links.

    Raises:
        UsageError: Where the directory already holds something.
        RunError: Where it can't be written.
    """
    if directory.is_dir() and any(directory.iterdir()):
        resume = f"--ckpt_path {shlex.quote(str(directory))}"
        raise UsageError(f"run_dir: {directory} is not empty; {resume} resumes the run in it")
    try:
        (directory / FOLDER).mkdir(parents=True)
        write_config(directory, config)
        (directory / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        for name, content in sources.items():
            path = directory / CODE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise RunError(f"run_dir: {directory} can't be written: {error.strerror}") from None
    if link:
        _point_latest_to(directory)


def _point_latest_to(directory: Path) -> None:
    # Made under another name and renamed: a reader finds the old run or the new one, never none.
    partial = directory.with_name(f".{LATEST}-{directory.name}")
    try:
        partial.symlink_to(directory.name, target_is_directory=True)
        partial.replace(directory.with_name(LATEST))
    except (OSError, NotImplementedError):  # Windows allows links to administrators only; a run does without
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


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

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """What ``lightning validate`` and ``lightning test`` found, oldest first: scores, and how they were reached."""
        return read_evaluations(self.directory) if self.directory else []

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


def append_evaluation(directory: Path, command: str, checkpoint: Path, found: dict[str, Any]) -> None:
    """Adds to a run's ``evaluations.jsonl``, in one write to its end: of two evaluations at a time both are kept.

    Somebody else's run may not be writable; that is said, and no error.

    Args:
        directory: The run's.
        command: ``validate`` or ``test``.
        checkpoint: The run's, that was scored.
        found: The scores, and how they were reached.
    """
    path, place = directory / EVALUATIONS, checkpoint.resolve().relative_to(directory.resolve())
    record = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command, "checkpoint": place.as_posix(), **found}
    line = json.dumps(record, default=str) + "\n"
    try:
        with path.open("ab", buffering=0) as file:  # O_APPEND
            file.write(line.encode())
    except OSError as error:
        print(f"{path} can't be written: {error.strerror}; the scores are kept nowhere", file=sys.stderr)


def read_evaluations(directory: Path) -> list[dict[str, Any]]:
    """The records of a run's ``evaluations.jsonl``, oldest first."""
    path = directory / EVALUATIONS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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
