"""One directory a run, and the way back from a directory to a model, its numbers and its errors.

``runs/<experiment>/<run id>/`` holds ``config.yaml``, ``provenance.json``, the user's own modules in ``code/``,
``metrics.csv``, ``evaluations.jsonl``, what validation and test found (``evaluation-val.json``), ``report.html``,
``checkpoints/`` and the offline W&B run in ``wandb/``; ``runs/<experiment>/latest`` links to the newest.

    >>> from resnet18 import load_run
    >>> run = load_run("runs/digits/latest")
    >>> run.plot()                                               # while it trains: run.watch()
    >>> run.predict(["cat.jpg", "dog.jpg"])                      # or arrays, tensors, PIL images
    >>> found = run.evaluate()
    >>> found.plot_confusion(), found.plot_worst()
    >>> run.model(images).argmax(1)                              # uint8 N×C×H×W in, logits out

Here epochs count from 1 and a step is the number of optimizer steps done, as on the screen and in the report; the files
of a run and W&B keep Lightning's own numbers, which begin at 0.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from resnet18.analysis.activation import plot_activation
from resnet18.analysis.curves import plot_curves
from resnet18.analysis.evaluate import Evaluation, evaluate
from resnet18.analysis.predict import Predictions, predict
from resnet18.analysis.rows import Rows
from resnet18.analysis.watch import described, watch
from resnet18.classifier import Classifier
from resnet18.data.base import ImageDataModule
from resnet18.errors import RunError, UsageError
from resnet18.report.markup import isolated
from resnet18.report.run_files import read_run
from resnet18.storage.checkpoints import CONFIG_KEY, find_checkpoint, read_checkpoint, run_directory
from resnet18.storage.class_paths import missing_module, refuse_foreign_code
from resnet18.storage.records import CONFIG, evaluation_path, read_evaluation, read_evaluations, read_metrics

Part = Literal["val", "test"]
SAME_IMAGES = {"root", "eval_batch_size", "num_workers", "cache_dir"}  # options that change no pixel of an evaluation


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained run, or a checkpoint on its own. Everything is loaded when it is first looked at, and then kept."""

    place: Path  # absolute, for the working directory may change: its directory or its checkpoint
    home: Path | None  # absolute: its directory, None for a checkpoint on its own
    given_data: ImageDataModule | dict[str, Any] = field(default_factory=dict)  # options differ from the stored ones
    given_backbone: Any = None
    _evaluations: dict[str, Evaluation] = field(default_factory=dict, init=False)

    @property
    def directory(self) -> Path | None:
        """Where the run is, seen from the working directory; None for a checkpoint on its own."""
        return _here(self.home) if self.home else None

    @property
    def checkpoint_path(self) -> Path:
        """The best checkpoint, or the one that was named; RunError for a run that has none yet."""
        return _here(self._checkpoint)

    @cached_property
    def _checkpoint(self) -> Path:
        try:
            return find_checkpoint(self.place)
        except RunError as error:
            raise RunError(f"{error} yet; run.watch() shows how far it is") from None

    @cached_property
    def model(self) -> Classifier:
        """With the checkpoint's weights, in evaluation mode, on the CPU."""
        given = {} if self.given_backbone is None else {"backbone": self.given_backbone}
        return Classifier.load_from_checkpoint(self.checkpoint_path, **given).eval()

    @cached_property
    def data(self) -> ImageDataModule:
        """The data source as configured, or as it was given; call its ``setup`` before its loaders.

        RunError where it can't be made: its files or its module are elsewhere now, say.
        """
        if isinstance(self.given_data, ImageDataModule):
            return self.given_data
        if CONFIG_KEY not in self._stored:
            raise RunError(f"{self.checkpoint_path} does not describe its data; load_run(…, data=…) takes the source")
        source, seed = self.config["data"], self.config["seed_everything"]
        options = {**source.get("init_args", {}), "seed": seed, **self.given_data}
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
    def _stored(self) -> dict[str, Any]:
        """What the checkpoint holds beside its large parts."""
        content, large = read_checkpoint(self.checkpoint_path), ("state_dict", "optimizer_states")
        return {name: None if name in large else part for name, part in content.items()}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The whole resolved configuration."""
        return stored_config(self._stored, self.checkpoint_path)

    @property
    def metrics(self) -> Rows:
        """The rows of ``metrics.csv``, each with the metrics logged together."""
        rows = read_metrics(self.directory) if self.directory else []
        counted = ("epoch", "step", "best/epoch")
        return Rows({name: int(one) + 1 if name in counted else one for name, one in row.items()} for row in rows)

    @property
    def evaluations(self) -> Rows:
        """What ``lightning validate`` and ``lightning test`` found, oldest first: scores, and how they were reached."""
        return Rows(read_evaluations(self.directory) if self.directory else ())

    def evaluation(self, part: Part = "val") -> dict[str, Any]:
        """What the last evaluation found: confusion, calibration, the most confident mistakes with their pictures.

        Of ``val`` it is the best epoch's, unless ``lightning validate`` was called since; empty where there was none.
        """
        found = (read_evaluation(self.directory, part) if self.directory else None) or {}
        return {**found, "epoch": found["epoch"] + 1} if "epoch" in found else found

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """After how many optimizer steps a metric was logged, and its values; KeyError for one that never was."""
        rows = [row for row in self.metrics if metric in row]
        if not rows:
            logged = sorted({name for row in self.metrics for name in row} - {"epoch", "step"})
            raise KeyError(f"{metric} was not logged; available: {', '.join(logged) or 'nothing'}")
        return [row["step"] for row in rows], [row[metric] for row in rows]

    def plot(self, *metrics: str, beside: "Run | Sequence[Run]" = ()) -> Any:
        """Curves of this run, and of others ``beside`` it; see :func:`~resnet18.analysis.curves.plot_curves`."""
        runs = [self, *([beside] if isinstance(beside, Run) else beside)]
        return plot_curves([read_run(_trained(run)) for run in runs], metrics)

    def watch(self, every: float = 2.0) -> None:
        """Shows the curves as they grow, until the run has ended; see :func:`~resnet18.analysis.watch.watch`."""
        watch(_trained(self), every)

    def predict(self, x: Any, topk: int = 5) -> Predictions:
        """Classes of images: paths, PIL images, uint8 arrays or tensors, or a list of these."""
        return predict(self.model, x, topk)

    def plot_activation(self, x: Any) -> Any:
        """Where the network sees what it predicts, over images as :meth:`predict` takes them; returns the axes."""
        return plot_activation(self.model, x)

    def evaluate(self, part: Part = "val") -> Evaluation:
        """What the model says of every validation image, or of every test image once ``lightning test`` was called.

        RunError before that, for data of another split, and for a task that is not one class an image.
        """
        if part not in ("val", "test"):
            raise UsageError(f"evaluate() takes val or test, not {part!r}")
        if part == "test" and not (self.directory and evaluation_path(self.directory, part).exists()):
            first = f"lightning test --ckpt_path {shlex.quote(str(_here(self.place)))}"
            raise RunError(f"the test images are seen by `lightning test` first, once all is decided: {first}")
        if part not in self._evaluations:
            stored, where = self._stored, self._checkpoint.relative_to(self.home or self.place.parent)
            split = [one["split_hash"] for one in stored.values() if isinstance(one, dict) and "split_hash" in one]
            place = {"checkpoint": where.as_posix(), "epoch": stored.get("epoch"), "step": stored.get("global_step")}
            place |= {"split_hash": split[0] if split else None}
            same = not isinstance(self.given_data, ImageDataModule) and SAME_IMAGES.issuperset(self.given_data)
            self._evaluations[part] = evaluate(self, part, place, self.directory if same else None)
        return self._evaluations[part]

    def _lines(self) -> list[str]:
        """What one wants to know first."""
        place = str(_here(self.place))
        try:
            if self.directory is not None:
                return [*described(self.directory), place]
            network, parameters = type(self.model.backbone).__name__, self.model.backbone.parameters()
            return [f"{network}, {sum(map(Tensor.numel, parameters)):,} parameters", place]
        except RunError as error:
            return [str(error), place]

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        return "<br>".join(map(isolated, self._lines()))


def load_run(
    place: str | os.PathLike[str], data: ImageDataModule | dict[str, Any] | None = None, backbone: Any = None
) -> Run:
    """A run by its directory, with its best checkpoint, or by a checkpoint file.

    Args:
        place: The directory, a link to it, or the file, which a Trainer used in Python may have written.
        data: The data source, or its options that differ from where it was trained: ``{"root": "elsewhere"}``.
        backbone: The network, or what makes it from ``num_classes``, where the checkpoint does not describe it.

    Raises:
        RunError: Where there is none, or it is broken. A run that has no checkpoint yet can be watched.
    """
    if not isinstance(data, ImageDataModule | dict | None):
        raise TypeError(f"data: expected options, as a dict, or an ImageDataModule, not a {type(data).__name__}")
    path = Path(place).expanduser()
    if not (path / CONFIG).is_file():
        path = find_checkpoint(path)
    path = path.resolve()  # `latest` may soon be another run, and the working directory another
    directory = path if path.is_dir() else run_directory(path)
    return Run(path, directory.resolve() if directory else None, {} if data is None else data, backbone)


def stored_config(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """A copy of the configuration that a checkpoint carries.

    Raises:
        RunError: For a file that is not from a run of this project.
    """
    config, advice = checkpoint.get(CONFIG_KEY), "a plain state dict starts a new run: lightning fit --init_from"
    if not isinstance(config, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path} holds no configuration, so it is not a checkpoint of a run; {advice}")
    return json.loads(json.dumps(config))


def _trained(run: Run) -> Path:
    """A run's directory; RunError for a checkpoint on its own."""
    if run.directory is None:
        raise RunError(f"{_here(run.place)} is a checkpoint on its own: only a run's directory has curves")
    return run.directory


def _here(path: Path) -> Path:
    """A path as one types it here."""
    here = Path.cwd()
    return path.relative_to(here) if here.name and path.is_relative_to(here) else path
