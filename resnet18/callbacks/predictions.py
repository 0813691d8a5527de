"""Writes what ``predict`` finds as a table: image id, class, probability."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

COLUMNS = ("image", "class", "probability")


class Prediction(NamedTuple):
    """What ``predict`` gives for a batch of B images."""

    positions: Tensor
    """int64, B: the images' places in the data set."""
    classes: Tensor
    """int64, B: the likeliest class."""
    probabilities: Tensor
    """float32, B: its softmax probability."""


class PredictionTable(Callback):
    """Args:
    path: The CSV file, replaced whole once every image is done.
    class_names: In the order of the labels.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path, self.class_names = path, class_names
        self._batches: list[Prediction] = []
        self.rows = 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batches.append(Prediction(*(column.cpu() for column in outputs)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        mine = [torch.cat(column).tolist() for column in zip(*self._batches, strict=True)]
        shares: list[Any] = [None] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(shares, mine)
        else:
            shares = [mine]
        if not trainer.is_global_zero:
            return
        ids: Sequence[str] = trainer.datamodule.image_ids()  # type: ignore[attr-defined]
        rows = sorted(row for share in shares for row in zip(*share, strict=True))
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for position, label, probability in rows:
                writer.writerow((ids[position], self.class_names[label], f"{probability:.6f}"))
        partial.replace(self.path)
        self.rows = len(rows)
