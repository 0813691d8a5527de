"""One directory a run, and the way back from a directory to a model.

``runs/<experiment>/<run id>/`` holds ``config.yaml``, ``provenance.json``, the user's own modules in ``code/``,
``metrics.csv``, ``evaluations.jsonl``, what validation and test found (``evaluation-val.json``), ``report.html``,
``checkpoints/`` and the offline W&B run in ``wandb/``; ``runs/<experiment>/latest`` links to the newest.

    >>> from resnet18 import load_run
    >>> run = load_run("runs/digits/latest")
    >>> run.model(images).argmax(1)                              # uint8 N×C×H×W in, logits out
    >>> steps, top1 = run.curve("val/top1")
    >>> run.evaluations[-1]["test/top1"]
    >>> run.evaluation("val")["confusion"]                       # [true class, predicted class, images], …
"""

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.errors import RunError
from resnet18.storage.checkpoints import CONFIG_KEY, find_checkpoint, read_checkpoint, run_directory
from resnet18.storage.class_paths import missing_module, refuse_foreign_code
from resnet18.storage.records import read_evaluation, read_evaluations, read_metrics


@dataclass(frozen=True)
class Run:
    """A trained run, or a checkpoint on its own. Everything is loaded when it is first looked at, and then kept."""

    checkpoint_path: Path
    directory: Path | None  # None for a checkpoint on its own
    data_options: dict[str, Any] = field(default_factory=dict)  # of the data source, instead of those it was made with

    @cached_property
    def model(self) -> Classifier:
        """With the checkpoint's weights, in evaluation mode."""
        return Classifier.load_from_checkpoint(self.checkpoint_path).eval()

    @cached_property
    def data(self) -> ImageDataModule:
        """The data source as configured; call its ``setup`` before its loaders.

        Raises:
            RunError: Where it can't be made: its files or its module are elsewhere now, say.
        """
        source, seed = self.config["data"], self.config["seed_everything"]
        options = {**source.get("init_args", {}), "seed": seed, **self.data_options}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--data", type=ImageDataModule)
        try:
            parsed = parser.parse_object({"data": {**source, "init_args": options}})
            refuse_foreign_code(parsed, CONFIG_KEY)
            return parser.instantiate(parsed).data
        except (ArgumentError, RunError, ValueError, TypeError) as error:
            reason = missing_module(error) or shorten(str(error), 300)
            elsewhere = "; load_run(…, data={'root': …}) says where it is now" if reason.startswith("data.root") else ""
            raise RunError(f"{self.checkpoint_path}: {reason}{elsewhere}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The whole resolved configuration."""
        return stored_config(read_checkpoint(self.checkpoint_path), self.checkpoint_path)

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.csv``, each with the metrics logged together."""
        return read_metrics(self.directory) if self.directory else []

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """What ``lightning validate`` and ``lightning test`` found, oldest first: scores, and how they were reached."""
        return read_evaluations(self.directory) if self.directory else []

    def evaluation(self, part: Literal["val", "test"] = "val") -> dict[str, Any]:
        """What the last evaluation found: confusion, calibration, the most confident mistakes with their pictures.

        Of ``val`` it is the best epoch's, unless ``lightning validate`` was called since; empty where there was none.
        """
        return (read_evaluation(self.directory, part) if self.directory else None) or {}

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """After how many optimizer steps a metric was logged, and its values.

        Raises:
            KeyError: For a metric that was never logged, with those that were.
        """
        rows = [row for row in self.metrics if metric in row]
        if not rows:
            logged = sorted({name for row in self.metrics for name in row} - {"epoch", "step"})
            raise KeyError(f"{metric} was not logged; available: {', '.join(logged) or 'nothing'}")
        return [int(row["step"]) + 1 for row in rows], [row[metric] for row in rows]  # Lightning logs steps from 0


def load_run(place: str | os.PathLike[str], data: dict[str, Any] | None = None) -> Run:
    """A run by its directory, with its best checkpoint, or by a checkpoint file.

    Args:
        place: The directory, a link to it, or the file.
        data: Options of the data source that differ from where it was trained: ``{"root": "elsewhere"}``.

    Raises:
        RunError: Where there is none, or it is broken.
    """
    checkpoint = find_checkpoint(Path(place))
    return Run(checkpoint, run_directory(checkpoint), data or {})


def stored_config(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """A copy of the configuration that a checkpoint carries.

    Raises:
        RunError: For a file that is not from a run of this project.
    """
    config = checkpoint.get(CONFIG_KEY)
    if not isinstance(config, dict) or "state_dict" not in checkpoint:
        raise RunError(
            f"{path} holds no configuration, so it is not a checkpoint of a run; "
            "a plain state dict starts a new run: lightning fit --init_from"
        )
    return json.loads(json.dumps(config))
