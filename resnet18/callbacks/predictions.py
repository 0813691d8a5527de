"""Writes predictions as a table: image id, class, probability."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class Prediction(NamedTuple):
    """The predictions for a batch of N images: one class for each, or any number of C classes."""

    positions: Tensor  # int64 N: the images' places in the data set
    classes: Tensor  # int64 N: the likeliest; or bool N×C: whether each class is present
    probabilities: Tensor  # float32 N: the likeliest class's; or float32 N×C


class PredictionTable(Callback):
    """Writes a CSV file at the end, in one piece. Several classes, and their probabilities, are joined by +.

    Args:
        path: The file.
        class_names: In the order of the labels.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path, self.class_names = path, class_names
        self._rows: list[tuple[int, str, str]] = []
        self.rows = 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        for position, classes, probabilities in zip(*(column.tolist() for column in outputs), strict=True):
            if isinstance(classes, list):
                found = [label for label, there in enumerate(classes) if there]
                shares = [probabilities[label] for label in found]
            else:
                found, shares = [classes], [probabilities]
            names = "+".join(self.class_names[label] for label in found)
            self._rows.append((position, names, "+".join(f"{share:.6f}" for share in shares)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ranks: list[Any] = [self._rows] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, self._rows)
        if not trainer.is_global_zero:
            return
        ids: Sequence[str] = trainer.datamodule.image_ids()  # type: ignore[attr-defined]
        rows = sorted(row for rank in ranks for row in rank)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "class", "probability"))
            writer.writerows((ids[position], *found) for position, *found in rows)
        partial.replace(self.path)
        self.rows = len(rows)
