"""What a model says of every validation image: computed once, kept in the run's directory, shared with its report."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from resnet18.analysis.plots import Plots
from resnet18.analysis.rows import Rows
from resnet18.data.feeds.resident import EvaluationLoader, ImageTensors
from resnet18.data.feeds.streamed import StreamedEvaluationLoader
from resnet18.engine.features import kept_features
from resnet18.errors import RunError
from resnet18.report.contact_sheet import encoded
from resnet18.report.evaluation_file import counts, write_evaluation
from resnet18.report.intervals import wilson
from resnet18.storage.records import PICTURES, evaluation_path, read_json
from resnet18.storage.status import RUNNING, read_status

LARGEST = 50_000_000  # bytes of logits that are kept in the run's directory
MISTAKES = 16  # pictures for the report
ARRAYS = ("labels", "logits", "predicted", "confidence")


@dataclass(eq=False)
class Evaluation(Plots):
    """N images of C classes, one class each, in the order of the data; an image's number in it is its ``index``."""

    part: str  # val or test
    class_names: list[str]
    ids: list[str]  # file names, or numbers in the source
    labels: numpy.ndarray  # int64 N
    logits: numpy.ndarray = field(repr=False)  # float32 N×C
    predicted: numpy.ndarray = field(repr=False)  # int64 N
    confidence: numpy.ndarray = field(repr=False)  # float32 N: the predicted class's probability
    facts: dict[str, Any] = field(repr=False)  # checkpoint, epoch and step as Lightning counts them, split, scores
    run: Any = field(repr=False)  # has the model and the data

    def __repr__(self) -> str:
        right = int((self.labels == self.predicted).sum())
        return f"Evaluation({self.part}: {right:,} of {len(self.labels):,} right, {len(self.class_names):,} classes)"

    @cached_property
    def probabilities(self) -> numpy.ndarray:
        """float32 N×C."""
        return torch.from_numpy(self.logits).softmax(1).numpy()

    @cached_property
    def losses(self) -> numpy.ndarray:
        """Cross-entropies: float32 N."""
        logits, labels = torch.from_numpy(self.logits), torch.from_numpy(self.labels)
        return cross_entropy(logits, labels, reduction="none").numpy()

    def confusion(self, normalize: bool = False) -> numpy.ndarray:
        """Images by true and predicted class, int64 C×C; or their shares of the true class, NaN for one without any."""
        classes = len(self.class_names)
        matrix = numpy.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(classes, classes)
        with numpy.errstate(invalid="ignore"):
            return matrix / matrix.sum(1, keepdims=True) if normalize else matrix

    def most_confused(self, n: int = 10) -> Rows:
        """The pairs of classes that are taken for each other most often."""
        matrix, names = self.confusion(), self.class_names
        numpy.fill_diagonal(matrix, 0)
        pairs = [divmod(int(one), len(names)) for one in matrix.ravel().argsort(kind="stable")[::-1][:n]]
        rows = [{"true": names[a], "predicted": names[b], "images": int(matrix[a, b])} for a, b in pairs]
        return Rows(row for row in rows if row["images"])

    def worst(self, n: int = 12) -> Rows:
        """The images of the highest losses."""
        return self._rows(self.losses.argsort(kind="stable")[::-1][:n])

    def suspects(self, n: int = 12) -> Rows:
        """Images whose label may be wrong, the likeliest first, with the class ``suggested`` in its place.

        That class is at least as probable as it is on average where it is the label: confident learning, Northcutt et
        al., JAIR 2021. They are ranked by the probability of the given label, as cleanlab does.
        """
        of_label = numpy.exp(-self.losses)
        own = [of_label[self.labels == label] for label in range(len(self.class_names))]
        usual = numpy.array([one.mean() if len(one) else numpy.inf for one in own])
        likely = numpy.where(self.probabilities >= usual, self.probabilities, -1)
        suggested = numpy.where(likely.max(1) < 0, self.labels, likely.argmax(1))
        doubtful = (suggested != self.labels).nonzero()[0]
        chosen = doubtful[of_label[doubtful].argsort(kind="stable")][:n]
        names = [self.class_names[label] for label in suggested[chosen]]
        return Rows({**row, "suggested": name} for row, name in zip(self._rows(chosen), names, strict=True))

    def _rows(self, chosen: numpy.ndarray) -> Rows:
        columns = {"index": chosen.tolist(), "image": [self.ids[one] for one in chosen]}
        for name, labels in (("true", self.labels), ("predicted", self.predicted)):
            columns[name] = [self.class_names[label] for label in labels[chosen]]
        columns["probability"], losses = self.confidence[chosen].tolist(), self.losses[chosen]
        columns |= {"of_true": numpy.exp(-losses).tolist(), "loss": losses.tolist()}
        return Rows(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def per_class(self) -> Rows:
        """Images, right ones, accuracy and its 95 % interval, low to high, of each class that has images."""
        matrix, rows = self.confusion(), Rows()
        for name, n, right in zip(self.class_names, matrix.sum(1).tolist(), matrix.diagonal().tolist(), strict=True):
            if n:
                interval = dict(zip(("low", "high"), wilson(right, n), strict=True))
                rows.append({"class": name, "images": n, "right": right, "accuracy": right / n, **interval})
        return rows

    def reliability(self) -> dict[str, Any]:
        """The expected calibration ``error``, and ``bins``: images, mean probability and accuracy of each of 15."""
        return counts(self.labels, self.predicted, self.confidence, self.class_names)["calibration"]

    def images(self, indices: Iterable[int]) -> Tensor:
        """Images as the network sees them, uint8 N×C×H×W, which ``run.predict`` takes."""
        found = [batch[0] for batch in _batches(self.run.data, self.part, [int(one) for one in indices])]
        return torch.cat(found).cpu() if found else torch.zeros(0, 1, 1, 1, dtype=torch.uint8)

    def embeddings(self) -> numpy.ndarray:
        """What the network's last layer gets of each image: float32 N×D; computed once."""
        return self._embeddings

    @cached_property
    @torch.no_grad()
    def _embeddings(self) -> numpy.ndarray:
        model = self.run.model.eval()
        with kept_features(model.backbone) as kept:
            for batch in _batches(self.run.data, self.part):
                model(batch[0].to(model.device))
        return torch.cat([one.float().cpu() for one in kept]).numpy()


def _batches(data: Any, part: str, positions: Sequence[int] | None = None) -> Iterable[Any]:
    """Batches (images, targets, …) of a part of the data, or of the images at these positions."""
    data.prepare_data()
    data.setup("validate" if part == "val" else "test")
    if positions is None:
        return data.evaluation_dataloader(part)
    images = getattr(data, part).take(torch.tensor(positions, dtype=torch.int64))
    if isinstance(images, ImageTensors):
        return EvaluationLoader(images, data.eval_batch_size)
    return StreamedEvaluationLoader(images, data.eval_batch_size, data.geometry)


def evaluate(run: Any, part: str, place: dict[str, Any], directory: Path | None) -> Evaluation:
    """A run's evaluation: that which is kept in its ``directory``, or a new one, which is then kept there.

    ``place``: the ``checkpoint`` within the directory, its ``epoch`` and ``step``, and the ``split_hash`` of its data.
    """
    path = directory / PICTURES / f"{part}.npz" if directory else None
    found = (_read(run, part, place, path) if path else None) or _computed(run, part, place)
    if path and directory:
        try:
            if found.logits.nbytes <= LARGEST and not path.exists():
                _write(found, path)
            if part == "val" and read_status(directory).get("state") != RUNNING:  # of the test it is `lightning test`'s
                _share_with_report(found, directory)
        except (OSError, RunError) as error:  # as in another user's run
            print(f"the evaluation is not kept in {directory}: {error}", file=sys.stderr)
    return found


@torch.no_grad()
def _computed(run: Any, part: str, place: dict[str, Any]) -> Evaluation:
    model, data = run.model.eval(), run.data
    step = model.validation_step if part == "val" else model.test_step
    loss, scores = getattr(model, f"{part}_loss"), getattr(model, f"{part}_scores")
    for metric in (loss, scores):
        metric.reset()
    columns, batches = list[list[Tensor]](), _batches(data, part)
    if place["split_hash"]:
        data.load_state_dict({"split_hash": place["split_hash"]})  # a RunError for another
    for number, batch in enumerate(batches):
        logits, targets = step(tuple(one.to(model.device) for one in batch), number), batch[1]
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise RunError(f"evaluate() needs steps of {type(model).__name__} that return logits, N×C")
        classes, confidence = model.decide(logits)
        if targets.dtype != torch.int64 or targets.ndim != 1 or classes.shape != targets.shape:
            raise RunError("evaluate() is for one class an image, and these images have other targets")
        columns.append([one.cpu() for one in (targets, logits.float(), classes, confidence.float())])
    getattr(batches, "close", lambda: None)()  # ends its workers
    measured = {f"{part}/loss": loss.compute(), **scores.compute()}
    for metric in (loss, scores):
        metric.reset()
    facts = {**place, "scores": {name: float(value) for name, value in measured.items()}}
    arrays = [torch.cat(column).numpy() for column in zip(*columns, strict=True)]
    return Evaluation(part, list(data.class_names), list(data.image_ids(part)), *arrays, facts=facts, run=run)


def _write(found: Evaluation, path: Path) -> None:
    text = json.dumps([found.class_names, found.ids, found.facts]).encode()
    path.parent.mkdir(exist_ok=True)
    with (partial := path.with_name(f".{path.name}")).open("wb") as file:
        numpy.savez(file, text=numpy.frombuffer(text, numpy.uint8), **{name: getattr(found, name) for name in ARRAYS})
    partial.replace(path)


def _read(run: Any, part: str, place: dict[str, Any], path: Path) -> Evaluation | None:
    """The evaluation in a file; None, and no file, where it is broken or of another checkpoint or split."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, BadZipFile, EOFError):
        with numpy.load(path, allow_pickle=False) as file:
            names, ids, facts = json.loads(file["text"].tobytes())
            columns = [file[name] for name in ARRAYS]
        fits = columns[1].shape == (len(ids), len(names)) and {len(column) for column in columns} == {len(ids)}
        if fits and all(facts[name] == value for name, value in place.items()):
            return Evaluation(part, names, ids, *columns, facts=facts, run=run)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def _share_with_report(found: Evaluation, directory: Path) -> None:
    """Writes ``evaluation-val.json``, unless it is of this checkpoint already."""
    with contextlib.suppress(RunError):  # a broken file is written anew
        there = read_json(evaluation_path(directory, found.part))
        if all(there.get(name) == found.facts[name] for name in ("checkpoint", "step")):
            return
    wrong = (found.labels != found.predicted).nonzero()[0]
    chosen, mistakes = wrong[found.confidence[wrong].argsort(kind="stable")[::-1][:MISTAKES]], []
    for one, image in zip(chosen, found.images(chosen), strict=True):
        said = {"image": found.ids[one], "true": int(found.labels[one]), "predicted": int(found.predicted[one])}
        said["probability"] = round(float(found.confidence[one]), 6)
        mistakes.append((said, *encoded(image)))
    how = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **found.facts, "flip_tta": False}
    how |= counts(found.labels, found.predicted, found.confidence, found.class_names)
    write_evaluation(directory, found.part, how, mistakes)
