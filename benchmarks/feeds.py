"""How fast the two feeds hand out training images, beside torchvision's data sets in a DataLoader with two workers.

The resident feed: 32×32 images shifted by up to 4 pixels and mirrored, batches of 512, against CIFAR10's PIL images
through RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize; and against the same ending in
PILToTensor, which leaves uint8 pixels as this feed does. The pixels are random, for speed does not depend on what they
show. Where there is a GPU, the feed is measured there too.

The streamed feed: the JPEGs of a folder, DIR/train/<class>/*.jpg, through a random crop resized to 128×128 and a flip,
by two workers, against ImageFolder's PIL images through RandomResizedCrop(128), RandomHorizontalFlip, ToTensor and
Normalize, and against the same ending in PILToTensor; in whole passes, the workers' start left out. Every file is read
once before, by the feed's own check.

All take turns in one process. A batch is pulled and nothing is done with it.

    python benchmarks/feeds.py --folder DIR      # about 3 minutes; writes benchmarks/results/feeds.json
    python benchmarks/feeds.py                   # the resident feed alone
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from resnet18.cli.notices import filter_notices
from resnet18.commands.measure import Clock, ready_ahead
from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.order import Shard
from resnet18.data.feeds.resident import ImageTensors, TrainLoader
from resnet18.data.folder import ImageFolder
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "feeds.json"
IMAGES, BATCH = 50_000, 512
SIZE, FOLDER_BATCH, WORKERS = 128, 128, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOLD = {"resident_ratio_at_least": 4.0, "streamed_ratio_at_least": 1.5}
RESIDENT, STREAMED, STOCK, STOCK_UINT8 = "resident", "streamed", "torchvision", "torchvision_uint8"


class PILImages(Dataset[tuple[Any, int]]):
    """As torchvision's CIFAR10: an array of pixels, from which each image is made when it is asked for."""

    def __init__(self, images: numpy.ndarray, last: list[Any]) -> None:
        self.images = images
        first = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*first, *last])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), index % 10


def stock(images: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    return DataLoader(images, batch_size, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True)


def rate(loader: Iterable[Any], batch_size: int, device: str = "cpu") -> float:
    """Images a second, over 20 batches or more and 2 seconds, once what workers had ready is used up."""
    clock = Clock(torch.device(device), steps=20, seconds=2.0, ahead=ready_ahead(loader))
    clock.begin()
    while not clock.done:
        for _ in loader:
            clock.step()
            if clock.done:
                break
    return 1000 * batch_size / clock.step_ms


def resident(rounds: int) -> dict[str, Any]:
    pixels = ImageTensors(torch.empty(IMAGES, 32, 32, 3, dtype=torch.uint8).random_(), torch.arange(IMAGES) % 10)
    wanted, array = Augmentation(translate=4, flip=True), pixels.images.numpy()
    loaders: dict[str, tuple[Any, str]] = {
        RESIDENT: (TrainLoader(pixels, BATCH, 0, wanted), "cpu"),
        STOCK: (stock(PILImages(array, [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]), BATCH), "cpu"),
        STOCK_UINT8: (stock(PILImages(array, [transforms.PILToTensor()]), BATCH), "cpu"),
    }
    if torch.cuda.is_available():
        loaders[f"{RESIDENT}_cuda"] = TrainLoader(pixels, BATCH, 0, wanted, shard=Shard(torch.device("cuda"))), "cuda"
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, (loader, device) in loaders.items():
            rates[name].append(rate(loader, BATCH, device))
    return {"batch_size": BATCH, **summary(rates, RESIDENT)}


def a_pass(loader: Any, batch_size: int) -> float:
    """Images a second of a whole pass."""
    began = time.perf_counter()
    for _ in loader:
        pass
    return batch_size * len(loader) / (time.perf_counter() - began)


def streamed(folder: str, rounds: int) -> dict[str, Any]:
    first = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    with tempfile.TemporaryDirectory() as cache:
        data = ImageFolder(
            root=folder,
            feed="streamed",
            image_size=SIZE,
            crop=(0.08, 1.0),
            flip=True,
            num_workers=WORKERS,
            batch_size=FOLDER_BATCH,
            cache_dir=cache,
        )
        data.prepare_data()
        data.setup("fit")
    loaders: dict[str, Any] = {STREAMED: data.train_dataloader()}
    lasts: dict[str, list[Any]] = {
        STOCK: [transforms.ToTensor(), transforms.Normalize(MEAN, STD)],
        STOCK_UINT8: [transforms.PILToTensor()],
    }
    for name, last in lasts.items():
        images = datasets.ImageFolder(str(Path(folder) / "train"), transforms.Compose([*first, *last]))
        loaders[name] = stock(images, FOLDER_BATCH)
    for loader in loaders.values():
        next(iter(loader))  # starts the workers
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            rates[name].append(a_pass(loader, FOLDER_BATCH))
    return {"folder": Path(folder).name, "files": len(data.load("train")), "size": SIZE, **summary(rates, STREAMED)}


def summary(rates: dict[str, list[float]], own: str) -> dict[str, Any]:
    result: dict[str, Any] = {f"{name}_images_per_s": round(statistics.median(of)) for name, of in rates.items()}
    for name in (STOCK, STOCK_UINT8):
        if name in rates:
            ratios = [ours / theirs for ours, theirs in zip(rates[own], rates[name], strict=True)]
            result[f"ratio_to_{name}"] = round(statistics.median(ratios), 2)
    return result | {f"{name}_rounds": [round(value) for value in of] for name, of in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="DIR with DIR/train/<class>/*.jpg")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    filter_notices()
    result: dict[str, Any] = {
        "command": f"python benchmarks/feeds.py{' --folder DIR' if options.folder else ''} --rounds {options.rounds}",
        "workers": WORKERS,
        "rounds": options.rounds,
        RESIDENT: resident(options.rounds),
    }
    held = result[RESIDENT][f"ratio_to_{STOCK}"] >= HOLD["resident_ratio_at_least"]
    if options.folder:
        result[STREAMED] = streamed(options.folder, options.rounds)
        held &= result[STREAMED][f"ratio_to_{STOCK}"] >= HOLD["streamed_ratio_at_least"]
    result["hold"] = HOLD
    result |= measured_with(provenance(seed=0, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in (RESIDENT, STREAMED) if name in result}, indent=2))
    sys.exit(not held)


if __name__ == "__main__":
    main()
