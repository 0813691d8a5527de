"""Keeps what validation and test found, in ``evaluation-val.json`` and ``evaluation-test.json``, with pictures.

Confusion, calibration and the most confident mistakes are counted from what the model's own step returned, so nothing
is computed twice; of a run's validations the one that is kept is the best epoch's. Nothing waits for the device before
an evaluation has ended.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from resnet18.report.contact_sheet import contact_sheet, encoded
from resnet18.report.evaluation_file import counts, write_evaluation
from resnet18.storage.records import PICTURES

MISTAKES, BATCH = 16, 32  # images
BATCH_PICTURE = "batch.png"


class EvaluationRecord(Callback):
    """Needs steps that return logits, N×C, and batches of (images, class numbers, positions); else it says why not.

    Args:
        directory: The run's; None keeps nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._reset()

    def _reset(self) -> None:
        self._reason = "nothing was scored"
        self._rows: list[Rows] = []
        self._worst: tuple[Rows, Tensor] | None = None  # the most confident mistakes so far, and their images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.directory is None or trainer.global_step or batch_idx or not trainer.is_global_zero:
            return
        images, targets = batch[0][:BATCH].cpu(), batch[1][:BATCH].cpu()  # waits for the device, once in a run
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            return
        names: Any = pl_module.class_names
        captions = [names[label] if _is_class_number(targets) else "" for label in targets.tolist()]
        (self.directory / PICTURES).mkdir(exist_ok=True)
        contact_sheet(images, captions).save(self.directory / PICTURES / BATCH_PICTURE)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        if self.directory is None:
            return
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(batch) < 3:
            self._reason = f"the step of {type(pl_module).__name__} returned no logits"
            return
        images, targets, positions = batch
        classes, probabilities = pl_module.decide(outputs)  # type: ignore[operator]
        if not _is_class_number(targets) or classes.shape != targets.shape:
            self._reason = "the targets are not one class an image"
            return
        numbers = torch.stack([part.to(outputs.device) for part in (positions, targets, classes)])
        rows = Rows(numbers, probabilities.float())
        self._rows.append(rows)
        worst = _most_confident_mistakes(rows, images)
        if self._worst is not None:
            worst = _most_confident_mistakes(_joined([self._worst[0], worst[0]]), torch.cat([self._worst[1], worst[1]]))
        self._worst = worst

    on_test_batch_end = on_validation_batch_end

    def on_new_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called on all ranks when ``best.ckpt`` has been written; its validation is the one to keep."""
        place = {"checkpoint": "checkpoints/best.ckpt", "epoch": trainer.current_epoch, "step": trainer.global_step}
        self.write(trainer, "val", place)

    def write(self, trainer: Trainer, part: str, place: dict[str, Any]) -> None:
        """Writes what the last evaluation found, gathered from all ranks; ``place`` says what was evaluated and how."""
        if self.directory is None:
            return
        mine = None
        if self._rows and self._worst is not None:
            mine = _joined(self._rows).cpu(), self._worst[0].cpu(), self._worst[1].cpu()
        ranks: list[Any] = [mine]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        measured = trainer.callback_metrics.items()
        scores = {name: float(value) for name, value in measured if name.startswith(f"{part}/")}
        found = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **place, "split_hash": data.split_hash, "scores": scores}
        if None in ranks:
            write_evaluation(self.directory, part, {**found, "reason": self._reason}, ())
            return
        _, true, predicted, confidence = _joined([rows for rows, _, _ in ranks]).columns()
        found |= counts(true, predicted, confidence, data.class_names)
        worst, images = _joined([rows for _, rows, _ in ranks]), torch.cat([images for _, _, images in ranks])
        worst, images = _most_confident_mistakes(worst, images)
        ids, mistakes = data.image_ids(part), []
        for position, true, predicted, confidence, image in zip(*worst.columns(), images, strict=True):
            if true != predicted:
                said = {"image": ids[position], "true": int(true), "predicted": int(predicted)}
                mistakes.append(({**said, "probability": round(float(confidence), 6)}, *encoded(image)))
        write_evaluation(self.directory, part, found, mistakes)


class Rows(NamedTuple):
    """What was said of B images."""

    numbers: Tensor  # int64 3×B: position in the data set, true class, predicted class
    confidence: Tensor  # float32 B: the predicted class's probability

    def cpu(self) -> "Rows":
        return Rows(self.numbers.cpu(), self.confidence.cpu())

    def columns(self) -> tuple[Any, ...]:
        return (*self.numbers.numpy(), self.confidence.numpy())


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(torch.cat([part.numbers for part in parts], 1), torch.cat([part.confidence for part in parts]))


def _most_confident_mistakes(rows: Rows, images: Tensor) -> tuple[Rows, Tensor]:
    """The first 16 rows, mistakes by falling confidence first, with their images; the device does not wait."""
    _, true, predicted = rows.numbers
    score = rows.confidence.where(true != predicted, -1.0)
    chosen = score.topk(min(MISTAKES, len(score))).indices
    return Rows(rows.numbers[:, chosen], rows.confidence[chosen]), images[chosen.to(images.device)]


def _is_class_number(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.ndim == 1
