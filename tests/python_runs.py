"""Checkpoints as a notebook leaves them: of a model made in Python and trained by a plain Trainer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import AdamW

from resnet18 import Classifier, ImageDataModule, ImageTensors, ResNet, load_run
from resnet18.runs import Run

NET = partial(ResNet, width=8, in_channels=3, stem="cifar")


class Stripes(ImageDataModule):
    """Colour images of 16×16 with a bright row: the higher the row, the lower the class's number."""

    mean, std, input_size = (0.3, 0.3, 0.3), (0.3, 0.3, 0.3), (3, 16, 16)

    def __init__(self, names: Sequence[str] = ("low", "high"), each: int = 8, **kwargs: Any) -> None:
        self.class_names, self.each = tuple(names), each
        options: dict[str, Any] = {"batch_size": 4, "val_share": 0.5, **kwargs}
        super().__init__(**options)

    def load(self, part: str) -> ImageTensors:
        labels = torch.arange(len(self.class_names)).repeat(self.each)
        images = torch.randint(0, 90, (len(labels), 16, 16, 3), dtype=torch.uint8, generator=torch.Generator())
        images[torch.arange(len(labels)), labels * 16 // len(self.class_names)] = 250
        return ImageTensors(images, self.changed(labels))

    def changed(self, labels: Tensor) -> Tensor:
        return labels


class Mislabelled(Stripes):
    """One label in 17 is wrong."""

    def changed(self, labels: Tensor) -> Tensor:
        return torch.where(torch.arange(len(labels)) % 17 == 3, (labels + 1) % len(self.class_names), labels)


def plain_trainer(**settings: Any) -> Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = {**dict.fromkeys(off, False), "accelerator": "cpu", "num_sanity_val_steps": 0}
    return Trainer(**{**quiet, **settings})


def python_run(
    path: Path,
    data: ImageDataModule,
    backbone: Any = NET,
    model: type[Classifier] = Classifier,
    epochs: int = 1,
    **fitted: Any,
) -> Run:
    """A checkpoint at the path, after some epochs."""
    torch.manual_seed(0)
    made = model.for_data(data, backbone, partial(AdamW, lr=0.01), **fitted)
    trainer = plain_trainer(max_epochs=epochs)
    trainer.fit(made, datamodule=data)
    trainer.save_checkpoint(path, weights_only=False)
    return load_run(path, data=data)
