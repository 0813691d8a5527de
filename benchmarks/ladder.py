"""What each remedy for a slow training loop is worth on a machine: a ladder from the stock loop to this project's.

The lowest rung is the loop of most PyTorch examples: float32, N×C×H×W in memory, PIL images augmented one by one by
torchvision in the workers of a ``DataLoader``. Each rung adds one thing to the one below. All are measured as
``lightning bench`` measures its bare loop, in turns, over several rounds.

    python benchmarks/ladder.py --config configs/digits.yaml --json ladder.json     # takes what lightning bench takes
"""

import copy
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resnet18.cli.notices import filter_notices
from resnet18.commands.bench import ROUNDS, Bench, Row
from resnet18.commands.measure import Clock, Probe, bare
from resnet18.data.base import ImageDataModule
from resnet18.data.feeds.files import Files
from resnet18.data.feeds.resident import ImageTensors
from resnet18.data.image_files import ImageFiles
from resnet18.engine.precision import has_bf16
from resnet18.errors import RunError, UsageError
from resnet18.optimization import make_optimizer
from resnet18.storage.provenance import measured_with, provenance

MOST_WORKERS, SHARE = 8, 10  # a rung takes a tenth of the steps
HALF = ("bf16-mixed", "16-mixed")


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
        (replace(rung, name="+ compiled", compiled=True), no_compiler(device)),
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
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"torch.compile fails: {lines[0] if lines else type(error).__name__}"
    return ""


class Loop(LightningModule):
    """A rung's loop over a backbone."""

    def __init__(self, rung: Rung, ladder: "Ladder") -> None:
        super().__init__()
        self.rung = rung
        self.backbone, self.optimizer = copy.deepcopy(ladder.model.backbone), ladder.model.optimizer
        self.layout = torch.channels_last if rung.channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.layout)
        if rung.compiled:
            self.backbone.compile(dynamic=False)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1 / (255 * ladder.model.std))
        self.register_buffer("shift", ladder.model.mean / ladder.model.std)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.rung.own_feed:
            images = images * self.scale - self.shift
        return F.cross_entropy(self.backbone(images.contiguous(memory_format=self.layout)), labels)

    def configure_optimizers(self) -> Any:
        return make_optimizer(self.optimizer, self)


class Ladder(Bench):
    """Measures the rungs; see :class:`resnet18.commands.bench.Bench`."""

    def results(self) -> dict[str, Any]:
        self.set_up()
        self.steps = max(1, self.config.steps // SHARE)
        ladder = rungs(self.device, str(self.trainer.precision), self.datamodule)
        there = {rung.name: Loop(rung, self) for rung in ladder if not rung.missing}
        stock = stock_loader(self.datamodule, pin_memory=self.device.type == "cuda")

        def measure(name: str) -> Clock:
            loop = there[name]
            loader = self.loader if loop.rung.own_feed else stock
            return self.fit(loop, Probe(self.steps, bare), loader, precision=loop.rung.precision)

        rows = self.in_turns(list(there), measure)
        self._print_ladder(rows)
        for rung in ladder:
            if rung.missing:
                self.console.print(f"without {rung.name.removeprefix('+ ')}: {rung.missing}", soft_wrap=True)
        return {
            "command": f"python benchmarks/ladder.py {' '.join(self.arguments)}",
            "rounds": ROUNDS,
            "steps_a_round": self.steps,
            "batch_size": self.datamodule.batch_size,
            "rungs": rows,
            "missing": {rung.name: rung.missing for rung in ladder if rung.missing},
            **measured_with(provenance(self.config.seed_everything, self.datamodule.split_hash)),
        }

    def _print_ladder(self, rows: list[Row]) -> None:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("the bare loop")
        for column in ("images/s", "× before", "× first", "first step"):
            table.add_column(column, justify="right", no_wrap=True)
        for before, row in zip([rows[0], *rows], rows, strict=False):
            factors = [f"{slower['ms_a_step'] / row['ms_a_step']:.2f}" for slower in (before, rows[0])]
            table.add_row(row["name"], f"{row['images_per_s']:,.0f}", *factors, f"{row['first_step_s']:,.1f} s")
        self.console.print(table)


def main() -> None:
    filter_notices()
    try:
        Ladder("bench", sys.argv[1:]).run()
    except (UsageError, RunError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
