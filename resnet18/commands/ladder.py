"""What each remedy for a slow training loop is worth on a machine: a ladder from the stock loop to this project's.

The lowest rung is the loop of most PyTorch examples: float32, N×C×H×W in memory, PIL images augmented one by one by
torchvision in the workers of a ``DataLoader``. Each rung adds one thing to the one below.
"""

import copy
import itertools
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resnet18.classifier import Classifier
from resnet18.commands.measure import HALF, Clock, passes, ready_ahead, recipe_of, train
from resnet18.data.base import ImageDataModule
from resnet18.data.feeds.files import Files
from resnet18.data.feeds.resident import ImageTensors
from resnet18.data.image_files import ImageFiles
from resnet18.engine.precision import has_bf16
from resnet18.optimization import make_optimizer

MOST_WORKERS = 8
COMPILED = "+ compiled"


class StockImages(Dataset[tuple[Tensor, int]]):
    """The training images as torchvision's own data sets give them: PIL images, transformed one at a time.

    Args:
        images: Held in memory, as ``CIFAR10`` does, or files, as ``ImageFolder`` does.
        transform: PIL image → float32 C×H×W.
    """

    def __init__(self, images: ImageTensors | Files, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images = self.images
        if isinstance(images, Files):
            image = Image.open(images.root / images.names[index]).convert("RGB")
        else:
            row = index if images.rows is None else int(images.rows[index])
            image = Image.fromarray(images.store[row].squeeze(2).numpy())
        return self.transform(image), int(images.labels[index])


def stock_transform(data: ImageDataModule) -> Callable[[Image.Image], Tensor]:
    """A data module's augmentation in torchvision's transforms of PIL images."""
    wanted, (channels, *size) = data.augmentation, data.input_size
    if isinstance(data, ImageFiles):
        size = [data.geometry.first or data.geometry.train] * 2
    steps: list[Callable] = [] if channels == 3 else [transforms.Grayscale()]
    if wanted.crop:
        steps.append(transforms.RandomResizedCrop(size, scale=tuple(wanted.crop)))
    elif isinstance(data.train, Files):
        steps += [transforms.Resize(min(size)), transforms.CenterCrop(size)]
    if wanted.translate:
        steps.append(transforms.RandomCrop(size, padding=wanted.translate, padding_mode="reflect"))
    if wanted.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if wanted.policy != "none":
        trivial = wanted.policy == "trivial"
        steps.append(transforms.TrivialAugmentWide() if trivial else transforms.RandAugment(magnitude=wanted.magnitude))
    steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    if wanted.erasing:
        steps.append(transforms.RandomErasing(wanted.erasing))
    return transforms.Compose(steps)


def stock_loader(data: ImageDataModule, pin_memory: bool) -> DataLoader:
    """Batches of (float32 B×C×H×W, int64 B), by a worker for each CPU, but eight at most."""
    assert data.train is not None
    return DataLoader(
        StockImages(data.train, stock_transform(data)),
        batch_size=data.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=min(MOST_WORKERS, os.cpu_count() or 1),
        pin_memory=pin_memory,
        persistent_workers=True,
        worker_init_fn=_leave_signals_to_parent,
    )


def _leave_signals_to_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Rung:
    """One of the loops: the one below and one thing more."""

    name: str
    precision: str = "32-true"
    channels_last: bool = False
    compiled: bool = False
    own_feed: bool = False
    missing: str = ""
    """Why it can't be measured here; the next does without."""


def rungs(device: torch.device, precision: str, data: ImageDataModule) -> list[Rung]:
    """The ladder for a device.

    Args:
        device: What is trained on.
        precision: The configuration's; 16-mixed takes bf16-mixed's place.
        data: What feeds the highest rung.
    """
    half = precision if precision in HALF else "bf16-mixed"
    rung = Rung("float32, N×C×H×W, DataLoader")
    ladder = [rung, rung := replace(rung, name="+ channels last", channels_last=True)]
    for above, missing in (
        (replace(rung, name=f"+ {half}", precision=half), no_half(device, precision, half)),
        (replace(rung, name=COMPILED, compiled=True), no_compiler(device)),
        (replace(rung, name=f"+ this project's {data.feed} feed", own_feed=True), ""),
    ):
        if missing:
            ladder.append(replace(above, missing=missing))
            continue
        rung = replace(
            above,
            precision=half if above.precision == half else rung.precision,
            compiled=above.compiled or rung.compiled,
        )
        ladder.append(rung)
    return ladder


def no_half(device: torch.device, precision: str, half: str) -> str:
    """Why mixed precision is no rung; empty if it is one."""
    if precision not in HALF and precision != "32-true":
        return f"the configuration trains in {precision}"
    if half == "16-mixed":
        return ""
    return "" if device.type != "mps" and has_bf16(device.type) else f"no bf16 instructions on this {device.type}"


def no_compiler(device: torch.device) -> str:
    """Why nothing can be compiled here; empty if something can."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"torch.compile fails: {told[0] if told else type(error).__name__}"
    return ""


class Ladder:
    """The rungs' loops over a copy of a model and its data module's images.

    Args:
        model: Before it is trained.
        data: After ``setup("fit")``.
    """

    def __init__(self, model: Classifier, data: ImageDataModule) -> None:
        self.data, self.optimizer, self.backbone = data, model.optimizer, copy.deepcopy(model.backbone)
        self.scale, self.shift = 1 / (255 * model.std.clone()), model.mean / model.std
        self.weights = {name: value.clone() for name, value in self.backbone.state_dict().items()}
        self.compiled = torch.compile(self.backbone, dynamic=False)
        self._stock: DataLoader | None = None

    def loop(self, rung: Rung) -> Callable[[Trainer, LightningModule, Clock], None]:
        """What a :class:`~resnet18.commands.measure.Probe` runs."""

        def run(trainer: Trainer, pl_module: LightningModule, clock: Clock) -> None:
            device, stock = trainer.strategy.root_device, self._stock_loader(trainer.strategy.root_device)
            clock.ahead = ready_ahead(trainer.train_dataloader if rung.own_feed else stock)
            self.backbone.load_state_dict(self.weights)
            layout = torch.channels_last if rung.channels_last else torch.contiguous_format
            self.backbone.to(device).to(memory_format=layout)
            network = self.compiled if rung.compiled else self.backbone
            scale, shift = self.scale.to(device), self.shift.to(device)

            def loss(images: Tensor, labels: Tensor) -> Tensor:
                images = images * scale - shift if rung.own_feed else images.contiguous(memory_format=layout)
                return F.cross_entropy(network(images), labels)

            train(
                loss,
                make_optimizer(self.optimizer, self.backbone),
                passes(trainer) if rung.own_feed else itertools.repeat(stock),
                int(trainer.num_training_batches) if rung.own_feed else len(stock),
                replace(recipe_of(trainer), precision=rung.precision),
                device,
                clock,
            )
            self.backbone.zero_grad()

        return run

    def close(self) -> None:
        """Ends the workers: the garbage collector, if it is left to that, waits for each of them for seconds."""
        self._stock = None

    def _stock_loader(self, device: torch.device) -> DataLoader:
        if self._stock is None:
            self._stock = stock_loader(self.data, pin_memory=device.type == "cuda")
        return self._stock
