"""ResNet-18 on 32×32 images, batches of 128: this project's ``Trainer.fit`` against the loop of kuangliu/pytorch-cifar.

That loop, https://github.com/kuangliu/pytorch-cifar/blob/master/main.py, is written afresh from what it publishes:
PIL images through RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize in a DataLoader with two
workers; SGD with a learning rate of 0.1, momentum 0.9 and weight decay 5e-4; float32, N×C×H×W; the loss and the
accuracy read back at every step. Its ResNet18 is this project's with ``stem: cifar``, 11,173,962 parameters. Its
progress bar is left out.

This project trains the same network with the same optimizer as ``lightning fit`` does: in the precision that it chooses
for the machine, channels-last, from the resident feed with ``translate: 4`` and ``flip: true``; W&B and the bar are
off. Both train in turns, in one process. The pixels are random, for speed does not depend on what they show.

The memory is that of a process of its own that trains on as many images as CIFAR-10 has, beyond what it took when all
was imported (Linux only).

    python benchmarks/cifar_loop.py              # about 4 minutes; writes benchmarks/results/cifar_loop.json
    python benchmarks/cifar_loop.py --name cifar_loop_float32           # on a CPU without bf16 instructions
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision  # noqa: F401  # part of the framework whose memory is taken off
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resnet18.backbone import ResNet
from resnet18.cli.fitting import Fit
from resnet18.cli.notices import filter_notices
from resnet18.commands.measure import Clock, Probe
from resnet18.data.base import ImageDataModule
from resnet18.data.feeds.resident import ImageTensors
from resnet18.engine.precision import choose_precision
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
PARAMETERS = 11_173_962  # of pytorch-cifar's ResNet18
BATCH, IMAGES, CIFAR10_IMAGES = 128, 5_000, 50_000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # pytorch-cifar's
RATIO_AT_LEAST, MEMORY_GB_AT_MOST = {"bf16-mixed": 2.4, "32-true": 1.3}, 1.2


class RandomImages(ImageDataModule):
    """Images of CIFAR-10's shape, made up."""

    class_names = tuple("0123456789")
    mean, std, input_size = MEAN, STD, (3, 32, 32)

    def __init__(self, count: int = IMAGES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def load(self, part: str) -> ImageTensors:
        draws = torch.Generator().manual_seed(0)
        images = torch.empty(self.count, 32, 32, 3, dtype=torch.uint8).random_(generator=draws)
        return ImageTensors(images, torch.arange(self.count) % 10)


def settings(count: int) -> list[str]:
    return [
        *("--model.backbone", "resnet18.backbone.ResNet", "--model.backbone.stem", "cifar"),
        *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--model.optimizer.momentum", "0.9"),
        *("--model.optimizer.weight_decay", "5e-4", "--data", "cifar_loop.RandomImages", "--data.count", str(count)),
        *("--data.batch_size", str(BATCH), "--data.translate", "4", "--data.flip", "true"),
        *("--trainer.max_epochs", "100", "--trainer.limit_val_batches", "0"),
        *("--trainer.log_every_n_steps", "10", "--trainer.logger=false", "--trainer.enable_progress_bar=false"),
        *("--run_dir", "run"),
    ]


def ours(steps: int, count: int = IMAGES) -> Probe:
    """``lightning fit``, until this many steps have been timed."""
    probe = Probe(steps)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
        program = Fit("fit", settings(count))
        program.trainer.callbacks.append(probe)  # type: ignore[attr-defined]
        program.start()
    return probe


class PILImages(Dataset[tuple[Any, int]]):
    """As torchvision's CIFAR10: an array of pixels, from which each image is made when it is asked for."""

    def __init__(self, images: numpy.ndarray, labels: list[int], transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def published(steps: int) -> Clock:
    """pytorch-cifar's training loop, until this many steps have been timed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = device.type == "cuda"
    pixels = RandomImages().load("train")
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = PILImages(pixels.images.numpy(), pixels.labels.tolist(), transform)
    loader = DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=2)
    network = ResNet(num_classes=10, stem="cifar").to(device)
    count = sum(parameter.numel() for parameter in network.parameters())
    if count != PARAMETERS:
        sys.exit(f"{count:,} parameters, not pytorch-cifar's {PARAMETERS:,}")
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    network.train()
    clock = Clock(device, steps)
    train_loss, correct, total = 0.0, 0, 0
    clock.begin()
    while not clock.done:
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            outputs = network(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            train_loss += loss.item()
            _, predicted = outputs.max(1)
            total += targets.size(0)
            correct += predicted.eq(targets).sum().item()
            clock.step()
            if clock.done:
                break
    return clock


def resident_mb(name: str) -> float:
    """Of this process: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")) / 1000


def memory(steps: int) -> dict[str, float]:
    """Of this process, in megabytes; nothing else may have run in it."""
    imported = resident_mb("VmRSS")
    ours(steps, CIFAR10_IMAGES)
    return {"imported_mb": round(imported), "peak_mb": round(resident_mb("VmHWM"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round, after two that are not")
    parser.add_argument("--name", default="cifar_loop", help="of the file in benchmarks/results")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)  # what the child process does
    options = parser.parse_args()
    filter_notices()
    if options.memory:
        print(json.dumps(memory(options.steps)))
        return
    times: dict[str, list[float]] = {"published": [], "ours": []}
    for _ in range(options.rounds):
        times["published"].append(published(options.steps).step_ms)
        times["ours"].append(ours(options.steps).clock.step_ms)
        print({name: round(values[-1], 1) for name, values in times.items()}, "ms a step", flush=True)
    ratios = [theirs / own for theirs, own in zip(times["published"], times["ours"], strict=True)]
    child = [sys.executable, os.path.abspath(__file__), "--memory", "--steps", str(options.steps)]
    done = subprocess.run(child, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    used = json.loads(done.stdout.splitlines()[-1])
    precision = choose_precision("auto").precision
    hold = {"ratio_at_least": RATIO_AT_LEAST[precision], "memory_gb_at_most": MEMORY_GB_AT_MOST}
    command = f"python benchmarks/cifar_loop.py --rounds {options.rounds} --steps {options.steps} --name {options.name}"
    result: dict[str, Any] = {
        "command": command,
        "precision": precision,
        "parameters": PARAMETERS,
        "batch_size": BATCH,
        "images": f"random pixels, {IMAGES:,} of 32×32×3; for the memory {CIFAR10_IMAGES:,}",
        "rounds": options.rounds,
        "steps": options.steps,
        **{f"{name}_images_per_s": round(1000 * BATCH / statistics.median(ms), 1) for name, ms in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_rounds": [round(ratio, 3) for ratio in ratios],
        **{f"{name}_ms_a_step_rounds": [round(value, 1) for value in ms] for name, ms in times.items()},
        "memory_gb": round((used["peak_mb"] - used["imported_mb"]) / 1000, 3),
        **used,
        "hold": hold,
    }
    result |= measured_with(provenance(seed=1, split_hash=""))
    (ROOT / "benchmarks" / "results" / f"{options.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        if not isinstance(value, dict):
            print(f"{name:32} {value}")
    held = result["ratio"] >= hold["ratio_at_least"] and result["memory_gb"] <= hold["memory_gb_at_most"]
    sys.exit(not held)


if __name__ == "__main__":
    main()
