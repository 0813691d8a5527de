"""Writes predictions as a table, batch by batch: image, class, probability, and what more is asked for."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from resnet18.engine.features import kept_features
from resnet18.engine.stopping import Interrupted
from resnet18.errors import UsageError
from resnet18.storage.rank_tables import Rank, RankTable, hidden_place
from resnet18.storage.tables import Columns, Row

Top = list[tuple[str, Any]]  # classes and their probabilities


class Prediction(NamedTuple):
    """The predictions for a batch of N images: one class for each, or any number of C classes."""

    positions: Tensor  # int64 N: the images' places in the data set
    classes: Tensor  # int64 N: the likeliest; or bool N×C: whether each class is present
    probabilities: Tensor  # float32 N: the likeliest class's; or float32 N×C
    logits: Tensor | None = None  # float32 N×C: the next classes are taken from these, after a softmax


class PredictionTable(Callback):
    """Writes a table of the predictions, see :mod:`resnet18.storage.tables`.

    The data module gives a name to each image by ``image_ids()``, and may have reasons by position in ``unreadable``:
    these are taken out of it, and written in place of the predictions.

    Args:
        path: The file; its suffix chooses the format, and ``-`` is standard output.
        class_names: In the order of the labels.
        topk: How many classes are written of each image.
        embeddings: Whether to write what the network's last layer gets of each image too.

    Raises:
        UsageError: For predictions that have no next classes, or no embeddings.
        RunError: Where the file can't be written.
    """

    def __init__(self, path: Path | str, class_names: Sequence[str], topk: int = 1, embeddings: bool = False) -> None:
        self.path, self.class_names, self.topk, self.embeddings = Path(path), class_names, topk, embeddings
        self.table: RankTable | None = None
        self._opened = ExitStack()

    @property
    def rows(self) -> int:
        """How many images the table has, on rank 0 in the end."""
        return self.table.rows if self.table else 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._names, self._errors = data.image_ids(), getattr(data, "unreadable", None)
        if self.embeddings:
            self._features = self._opened.enter_context(kept_features(pl_module.get_submodule("backbone")))
        place = self._opened.enter_context(hidden_place(self.path)) if trainer.is_global_zero else ""
        self._place, self.table = Path(trainer.strategy.broadcast(place)), None

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        found = Prediction(*outputs)
        if self.table is None:
            rank = Rank(trainer.global_rank, trainer.world_size)
            self.table = RankTable(self.path, self._place, self._columns_of(found, pl_module), rank)
        self.table.write(self._rows_of(found))
        if trainer.received_sigterm:  # Lightning only notes it
            raise Interrupted(signal.SIGTERM, None)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.table is not None
        self.table.close(trainer.strategy.barrier)
        self._opened.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._opened.close()

    def _columns_of(self, found: Prediction, pl_module: LightningModule) -> Columns:
        several = found.classes.ndim == 2
        if several and self.topk > 1:
            raise UsageError("topk: there are no next classes where an image has several; leave it out")
        if found.logits is None and self.topk > 1:
            step = f"{type(pl_module).__name__}.predict_step"
            raise UsageError(f"topk: {step} returns no logits, of which the next classes are taken; see Prediction")
        return Columns(self.topk, several, self.embeddings, self._errors is not None)

    def _rows_of(self, found: Prediction) -> Iterator[Row]:
        tops = self._several(found) if found.classes.ndim == 2 else self._likeliest(found)
        vectors = self._vectors(len(found.positions))
        for position, top, vector in zip(found.positions.tolist(), tops, vectors, strict=True):
            name = os.fsencode(self._names[position]).decode(errors="backslashreplace")  # it may not be Unicode
            error = self._errors.pop(position, None) if self._errors else None
            yield Row(position, name, top, vector) if error is None else Row(position, name, error=error)

    def _several(self, found: Prediction) -> Iterator[Top]:
        for there, probabilities in zip(found.classes.tolist(), found.probabilities.tolist(), strict=True):
            labels = [label for label, one in enumerate(there) if one]
            yield [("+".join(self.class_names[label] for label in labels), [probabilities[label] for label in labels])]

    def _likeliest(self, found: Prediction) -> list[Top]:
        labels, probabilities = found.classes[:, None], found.probabilities[:, None]  # N×1
        if self.topk > 1:
            assert found.logits is not None
            others = found.logits.softmax(1).scatter(1, labels, -1.0)  # the first is the model's own decision
            shares, next_labels = others.topk(self.topk - 1)
            probabilities, labels = torch.cat([probabilities, shares], 1), torch.cat([labels, next_labels], 1)  # N×topk
        return [
            [(self.class_names[label], probability) for label, probability in zip(*one, strict=True)]
            for one in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]

    def _vectors(self, count: int) -> list[Any]:
        """What the last layer got of a batch's images."""
        if not self.embeddings:
            return [None] * count
        if not self._features or len(self._features[0]) != count:
            raise UsageError("embeddings: the network's last layer is not called once with a batch's images")
        vectors = self._features[0].float().tolist()  # a second call is of the mirror images
        self._features.clear()
        return vectors
