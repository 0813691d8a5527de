"""How near exported files are to PyTorch, and to a run's own preprocessing, on real images.

    python benchmarks/export.py DIR     # some minutes; writes benchmarks/results/export.json

DIR is a folder of images as configs/imagefolder.yaml takes it, with train/ and val/; the stored numbers are of some of
fast.ai's Imagenette, whose shorter sides have 160 pixels. The networks for photographs keep the weights that they began
with, since small differences change most classes where least has been learnt; the digits' is trained for three epochs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet18 import load_run
from resnet18.commands.export import SUFFIXES
from resnet18.commands.export_formats import compare, write
from resnet18.data.feeds.decode import decode
from resnet18.data.feeds.files import Files
from resnet18.runs import Run
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "export.json"
IMAGES = 200
DIGITS = ("--config", str(ROOT / "configs" / "digits.yaml"), "--model.backbone.width", "8", "--trainer.max_epochs", "3")
PHOTOGRAPHS = (
    "--config",
    str(ROOT / "configs" / "imagefolder.yaml"),
    "--data.image_size",
    "128",
    "--model.schedule",
    "null",
)
PHOTOGRAPHS += ("--model.optimizer", "SGD", "--model.optimizer.lr", "1e-12", "--trainer.limit_train_batches", "4")
PHOTOGRAPHS += ("--trainer.max_epochs", "1", "--data.eval_share", "0.875")
RUNS = {
    "digits, 8 pixels": DIGITS,
    "photographs, 128 pixels, bilinear": (*PHOTOGRAPHS, "--data.interpolation", "bilinear"),
    "photographs, 128 pixels, bicubic": (*PHOTOGRAPHS, "--data.interpolation", "bicubic"),
    "photographs, 32 pixels, bilinear": (
        *PHOTOGRAPHS,
        "--data.image_size",
        "32",
    ),  # which shrink to less than a quarter
}


def images_of(run: Run) -> Iterable[Tensor]:
    """Validation images in their full size, uint8 C×H×W each."""
    run.data.setup("validate")
    source, names = run.data.load("val" if run.data.has_val else "train"), run.data.image_ids("val")
    if not isinstance(source, Files):
        return [image for images, *_ in run.data.evaluation_dataloader("val", IMAGES) for image in images]
    numbers = torch.linspace(0, len(names) - 1, min(IMAGES, len(names))).long().tolist()
    return [decode(source.root / names[number], run.data.input_size[0]) for number in numbers]


def measured(run: Run, kind: str, place: Path) -> dict[str, Any]:
    path, began = place / f"model{SUFFIXES[kind]}", time.perf_counter()
    file = write(kind, path, run, {})
    seconds = time.perf_counter() - began
    found = compare(kind, file, run.model, images_of(run))
    return {
        "images": found.images,
        "logits_apart": found.apart,
        "logits_apart_from_own_preprocessing": found.own_apart,
        "classes_as_by_own_preprocessing": found.own_same,
        "export_s": round(seconds, 1),
        "mb": round(path.stat().st_size / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    root = parser.parse_args().images.resolve()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for number, (name, options) in enumerate(RUNS.items()):
            more = ("--trainer.precision", "32-true", "--trainer.logger", "false", "--run_dir", f"run{number}")
            data = () if options == DIGITS else ("--data.root", str(root), "--data.cache_dir", str(place / "cache"))
            command = [sys.executable, "-m", "resnet18", "fit", *options, *data, *more]
            subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
            run = load_run(place / f"run{number}")
            found[name] = {kind: measured(run, kind, place) for kind in SUFFIXES}
            print(name, json.dumps(found[name], indent=1))
    result: dict[str, Any] = {"command": "python benchmarks/export.py DIR", "networks": found}
    result |= measured_with(provenance(seed=1, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
