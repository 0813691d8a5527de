"""Runs that are killed with SIGKILL at a chosen moment and resumed, and in what two runs ended differently."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from PIL import Image
from sklearn.datasets import load_digits

from resnet18.callbacks.training_log import MEASURED

EACH = 40  # images of a class

MODULE = '''
import io
import os
import time

import torch
from lightning.pytorch import Callback
from torch import nn

SLOWLY = "SLOWLY" in os.environ
torch_save, replace = torch.save, os.replace


class Net(nn.Module):
    """Small and quick, with what a resume can get wrong: norm statistics, dropout, momentum."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


class Tell(Callback):
    """Says where the run is, in a file, and makes every moment long enough to be hit."""

    def __init__(self) -> None:
        if SLOWLY:
            self.file = os.open("moment", os.O_RDWR | os.O_CREAT)
            torch.save = self.save
            os.replace = self.replace

    def tell(self, moment: str, seconds: float) -> None:
        if SLOWLY:
            os.pwrite(self.file, f"{moment:<32}".encode(), 0)
            time.sleep(seconds)

    def save(self, content, file, *arguments, **options) -> None:
        whole = io.BytesIO()
        torch_save(content, whole, *arguments, **options)
        for part in range(0, len(whole.getvalue()), 4096):
            self.tell("writing", 0.02)
            file.write(whole.getvalue()[part : part + 4096])

    def replace(self, source, target) -> None:
        if str(target).endswith(".ckpt"):
            self.tell("writing", 0.05)
        replace(source, target)

    def on_train_batch_start(self, trainer, *arguments) -> None:
        self.tell(f"step {trainer.global_step + 1}", 0.02)

    def on_validation_batch_start(self, trainer, *arguments) -> None:
        self.tell("validation", 0.04)
'''


class Way(NamedTuple):
    """One of the ways in which a run may be trained."""

    precision: str
    ema: float
    feed: str

    @property
    def name(self) -> str:
        return f"{self.precision}-{self.ema:g}-{self.feed}"

    def options(self) -> list[str]:
        feed = ["--data.feed", self.feed]
        feed += ["--data.num_workers", "2", "--data.policy", "trivial"] if self.feed == "streamed" else []
        return [
            *("fit", "--model.backbone", "killed.Net", "--model.mixup", "0.2", "--model.ema", str(self.ema)),
            *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--model.optimizer.momentum", "0.9"),
            *("--model.schedule", "resnet18.schedules.WarmupCosine", "--data", "ImageFolder", "--data.root", "images"),
            *("--data.image_size", "16", "--data.batch_size", "16", "--data.eval_batch_size", "8"),
            *("--data.cache_dir", "cache", "--data.flip", "true", *feed),
            *("--trainer.max_epochs", "4", "--trainer.log_every_n_steps", "5", "--trainer.logger", "false"),
            *("--trainer.precision", self.precision, "--last.every_n_steps", "7"),
            *("--trainer.callbacks", "killed.Tell"),
            *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"),
            *("--trainer.callbacks.patience", "9"),
        ]


def prepare(place: Path) -> None:
    """Scans of digits as a folder of images, and the module that the runs name."""
    (place / "killed.py").write_text(MODULE)
    digits: Any = load_digits()
    for label in range(10):
        folder = place / "images" / "train" / str(label)
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:EACH]):
            Image.fromarray((image * 15).astype(numpy.uint8)).resize((16, 16)).save(folder / f"{number}.png")


def start(arguments: list[str], place: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "resnet18", *arguments],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(process: subprocess.Popen[str], place: Path, moment: str, step: int, seconds: float) -> str | None:
    """Sends SIGKILL some seconds after a moment that comes at a step or later.

    Returns:
        Where the process was; None if it ended before.
    """
    moments, passed = place / "moment", False
    moments.write_text("")
    while process.poll() is None:
        now = moments.read_text().strip()
        passed |= now.startswith("step") and int(now.split()[1]) >= step
        if passed and now.startswith(moment):
            time.sleep(seconds)
            where = moments.read_text().strip()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return where
        time.sleep(0.001)
    return None


def resume_arguments(run: Path) -> list[str]:
    """What follows a kill: the run from its last checkpoint, or, if it had none yet, from its start."""
    if (run / "checkpoints" / "last.ckpt").exists():
        return ["fit", "--ckpt_path", run.name]
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return []


def differences(one: Path, other: Path) -> list[str]:
    """In what two runs ended differently; nothing, if they are equal to the last bit."""
    found = [
        f"{name}{where}"
        for name in ("last.ckpt", "best.ckpt")
        for where in _unlike(_content(one / "checkpoints" / name), _content(other / "checkpoints" / name))
    ]
    rows, others = (_rows(run) for run in (one, other))
    if len(rows) != len(others):
        found.append(f"metrics.csv: {len(rows)} and {len(others)} rows")
    pairs = enumerate(zip(rows, others, strict=False))
    return found + [f"metrics.csv, row {number}" for number, (row, other_row) in pairs if row != other_row]


def _content(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = torch.load(path, weights_only=True)
    del content["config"]  # of the directories' names
    # How many batches an epoch has validated on; nothing asks for it, and a validation run again counts more.
    content["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"].pop("total")
    for state in content.get("callbacks", {}).values():
        for name in ("dirpath", "best_model_path", "kth_best_model_path", "best_k_models", "last_model_path"):
            state.pop(name, None)
    return content


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def _unlike(one: Any, other: Any, where: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _unlike(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _unlike(*pair, f"{where}/{number}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not torch.equal(one, other):
            yield where
    elif one != other and not (one != one and other != other):  # NaN is not itself
        yield where
