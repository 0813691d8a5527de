"""How fast `lightning predict --images` is beside a plain loop, and how much memory it takes for how many images.

    python benchmarks/predict.py --folder DIR      # some 10 minutes; writes benchmarks/results/predict.json

A ResNet-18 is trained for some epochs on DIR/train/<class>/*.jpg, until it is sure of these: of two classes that are
equally likely, rounding decides. It then classifies all images of DIR at 128×128. The plain loop has torchvision's
resnet18 with the same weights in float32, PIL images through Resize, CenterCrop, ToTensor and Normalize, and a
DataLoader with as many workers; it writes nothing. Ours is the whole command, from its arguments to its table, in the
precision of the run. They take turns in one process.

Memory is what /proc calls Pss, where a page that the command and its workers share counts once: the largest sum seen,
of 1,000 images, and of 100,000, which are hard links to these; by a network of width 8 at 32×32. Medians of three.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from lightning.fabric.utilities.data import suggested_max_num_workers
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resnet18 import load_run
from resnet18.cli.notices import filter_notices
from resnet18.cli.predicting import run
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "predict.json"
SIZE, BATCH = 128, 128
FEW, MANY, POLL_S = 1_000, 100_000, 0.2
HOLD = {"ratio_at_least": 1.5, "agreement_at_least": 0.995, "more_memory_mb_at_most": 100}
PROGRAM = (sys.executable, "-m", "resnet18")


def fit(place: Path, folder: Path, name: str, *options: str) -> Path:
    """Trains, and returns the run."""
    config = str(ROOT / "configs" / "imagefolder.yaml")
    command = [*PROGRAM, "fit", "--config", config, "--data.root", str(folder), "--run_dir", name, *options]
    command += ["--data.cache_dir", str(place), "--trainer.logger", "false", "--report", "false"]
    subprocess.run(command, check=True, cwd=place)
    return place / name


class Images(Dataset[Tensor]):
    """Files as torchvision's own data sets give them."""

    def __init__(self, paths: Sequence[Path], mean: list[float], std: list[float]) -> None:
        self.paths = paths
        steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain(trained: Path, paths: Sequence[Path], workers: int) -> tuple[float, list[int]]:
    """Seconds that the plain loop takes, and its classes."""
    model = load_run(trained).model
    statistics_ = [value.flatten().tolist() for value in (model.mean, model.std)]
    began, found = time.perf_counter(), list[Tensor]()
    network = torchvision.models.resnet18(num_classes=model.num_classes).eval()
    network.load_state_dict(model.backbone.state_dict())
    with torch.inference_mode():
        for images in DataLoader(Images(paths, *statistics_), BATCH, num_workers=workers):
            found.append(network(images).argmax(1))
    return time.perf_counter() - began, torch.cat(found).tolist()


def ours(trained: Path, folder: Path, workers: int, table: Path) -> tuple[float, dict[str, str]]:
    """Seconds that the command takes, and its class of each image."""
    began = time.perf_counter()
    options = ("--images", str(folder), "--output", str(table), "--data.num_workers", str(workers))
    run("predict", ["--ckpt_path", str(trained), *options])
    seconds = time.perf_counter() - began
    return seconds, {row["image"]: row["class"] for row in csv.DictReader(table.open())}


def speed(place: Path, folder: Path, rounds: int, epochs: int) -> dict[str, Any]:
    sizes = ("--data.image_size", "64", "--data.eval_size", str(SIZE), "--trainer.max_epochs", str(epochs))
    trained = fit(place, folder, "speed", *sizes)
    paths, workers = sorted(folder.rglob("*.[jJ][pP]*[gG]")), suggested_max_num_workers(1)
    names, seconds, agreement = load_run(trained).model.class_names, list[tuple[float, float]](), 1.0
    for _ in range(rounds):
        theirs, classes = plain(trained, paths, workers)
        own, table = ours(trained, folder, workers, place / "predictions.csv")
        pairs = zip(paths, classes, strict=True)
        same = sum(table[str(path.relative_to(folder))] == names[label] for path, label in pairs)
        agreement = min(agreement, same / len(paths))
        seconds.append((theirs, own))
    rates = [[round(len(paths) / taken, 1) for taken in column] for column in zip(*seconds, strict=True)]
    return {
        "files": len(paths),
        "size": SIZE,
        "workers": workers,
        "threads": torch.get_num_threads(),
        "precision": load_run(trained).config["trainer"]["precision"],
        "plain_images_per_s": statistics.median(rates[0]),
        "predict_images_per_s": statistics.median(rates[1]),
        "ratio": round(statistics.median(theirs / own for theirs, own in seconds), 2),
        "agreement": round(agreement, 5),
        "plain_rounds": rates[0],
        "predict_rounds": rates[1],
    }


def peak_mb(trained: Path, images: Path) -> dict[str, float]:
    """The command's seconds, and the peak memory of its processes together."""
    command = [*PROGRAM, "predict", "--ckpt_path", str(trained), "--images", str(images), "--output", "peak.csv"]
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, cwd=trained.parent)
    while process.poll() is None:
        peak = max(peak, sum(map(proportional, (process.pid, *children(process.pid)))))
        time.sleep(POLL_S)
    if process.returncode:
        sys.exit(process.returncode)
    return {"s": round(time.perf_counter() - began, 1), "mb": round(peak / 1024, 1)}


def children(parent: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def proportional(process: int) -> int:
    """The memory of a process, shared pages in shares, in KiB."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def memory(place: Path, folder: Path) -> dict[str, Any]:
    small = ("--model.backbone.width", "8", "--data.image_size", "32", "--data.feed", "streamed")
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1")
    trained = fit(place, folder, "memory", *small, *short)
    sources = sorted(folder.rglob("*.[jJ][pP]*[gG]"))[:FEW]
    for number in range(MANY // FEW):
        images = place / "images" / f"{number:03d}"
        images.mkdir(parents=True)
        for source in sources:
            os.link(source, images / source.name)
    rounds = [(peak_mb(trained, place / "images" / "000"), peak_mb(trained, place / "images")) for _ in range(3)]
    result: dict[str, Any] = {}
    for name, images, measured in zip(("few", "many"), (FEW, MANY), zip(*rounds, strict=True), strict=True):
        middle = sorted(measured, key=lambda one: one["mb"])[1]
        result[name] = {"images": images, **middle, "mb_rounds": [one["mb"] for one in measured]}
    return result | {"more_mb": round(result["many"]["mb"] - result["few"]["mb"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="DIR with DIR/train/<class>/*.jpg")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    filter_notices()
    folder = options.folder.resolve()
    # Beside the images: hard links stay on a file system.
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        result: dict[str, Any] = {
            "command": f"python benchmarks/predict.py --folder DIR --rounds {options.rounds} --epochs {options.epochs}",
            "rounds": options.rounds,
            "speed": speed(Path(place), folder, options.rounds, options.epochs),
            "memory": memory(Path(place), folder),
        }
    found, more = result["speed"], result["memory"]["more_mb"]
    held = found["ratio"] >= HOLD["ratio_at_least"] and found["agreement"] >= HOLD["agreement_at_least"]
    held &= more <= HOLD["more_memory_mb_at_most"]
    result["hold"] = HOLD
    result |= measured_with(provenance(seed=1, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("speed", "memory")}, indent=2))
    sys.exit(not held)


if __name__ == "__main__":
    main()
