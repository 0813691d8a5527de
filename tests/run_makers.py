"""Directories of runs as a long training leaves them, for tests that only read them."""

import functools
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import yaml
from PIL import Image

SERIES = (
    *("train/loss", "lr", "lr/backbone", "images_per_s", "step_ms", "grad_norm", "weight_norm", "memory_gb"),
    *("val/loss", "val/top1", "val/top5", "val/f1", "val/precision", "val/recall"),
)  # 14
LOGGED = 8  # of them, at log points


def make_run(
    place: Path, epochs: int = 15, names: Sequence[str] = tuple("0123456789"), tested: bool = True, **config: Any
) -> Path:
    """A finished run: its best epoch is the one before the last."""
    place.mkdir(parents=True)
    whole = {
        "experiment": "digits",
        "model": {"backbone": {"class_path": "resnet18.backbone.ResNet", "init_args": {"width": 8}}},
        "trainer": {"max_epochs": epochs, "callbacks": None},
        "best": {"monitor": "val/top1", "mode": "max"},
        **config,
    }
    (place / "config.yaml").write_text(yaml.safe_dump(whole, allow_unicode=True))
    origin = {
        "command": "lightning fit --config configs/digits.yaml",
        "git": {"sha": "997c10075dbe7a65", "status": " M a.py", "diff": "-<b>\n+<i>\n"},
        "hardware": {"cpu": "a CPU", "cores": 2, "gpus": []},
        "split_hash": "997c10075dbe7a65",
    }
    (place / "provenance.json").write_text(json.dumps(origin))
    (place / "status.json").write_text(json.dumps({"state": "finished", "reason": "", "seconds": 2220.0}))
    lines = ["epoch,step," + ",".join(SERIES)]
    for epoch in range(epochs):
        for step in (10 * epoch + 4, 10 * epoch + 9):
            logged = [f"{math.exp(-step / (4 * epochs)) * (number + 1):.6g}" for number in range(LOGGED)]
            lines.append(f"{epoch},{step},{','.join(logged)}" + "," * (len(SERIES) - LOGGED))
        top1 = 0.5 if epoch == epochs - 1 else 0.5 + 0.5 * epoch / epochs
        measured = [f"{value:.6g}" for value in (2 / (epoch + 1), top1, 0.9 + top1 / 10, top1, top1, top1)]
        lines.append(f"{epoch},{10 * epoch + 9}{',' * LOGGED},{','.join(measured)}")
    (place / "metrics.csv").write_text("\n".join(lines) + "\n")
    for part in ("val", "test") if tested else ("val",):
        write_evaluation(place, part, names, epoch=max(epochs - 2, 0))
    return place


def write_evaluation(place: Path, part: str, names: Sequence[str], **changed: Any) -> None:
    """What an evaluation finds that has one image in ten wrong, ten of each class, and 16 pictures of the mistakes."""
    (place / "evaluation").mkdir(exist_ok=True)
    mistakes = []
    for number in range(16):
        picture = f"evaluation/{part}-{number:02d}.png"
        (place / picture).write_bytes(photograph(number))
        wrong = {"true": number % len(names), "predicted": (number + 1) % len(names), "probability": 0.99}
        mistakes.append({"image": f"{part}/{number}", **wrong, "picture": picture})
    confusion = [[true, true, 9] for true in range(len(names))]
    confusion += [[true, (true + 1) % len(names), 1] for true in range(len(names))]
    found = {
        **{"version": 1, "part": part, "checkpoint": "checkpoints/best.ckpt", "flip_tta": False, "given": {}},
        **{"images": 10 * len(names), "class_names": list(names), "confusion": confusion, "mistakes": mistakes},
        "scores": {f"{part}/loss": 0.3, f"{part}/top1": 0.9, f"{part}/f1": 0.88},
        "calibration": {"error": 0.02, "bins": [[0, 0, 0]] * 13 + [[4, 0.9, 0.75], [6, 0.98, 1.0]]},
    }
    (place / f"evaluation-{part}.json").write_text(json.dumps({**found, **changed}))


@functools.cache
def photograph(number: int) -> bytes:
    """A picture of 128 × 128 that is as large in PNG as a photograph."""
    coarse = numpy.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=numpy.uint8)
    written = io.BytesIO()
    Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC).save(written, "PNG")
    return written.getvalue()


SEVERAL_LABELS = """
import torch
from torchmetrics.classification import MultilabelAccuracy
from resnet18 import Classifier, Digits, ImageTensors

class Tags(Digits):
    class_names = ("odd", "large", "threefold")

    def load(self, part):
        whole = super().load(part)
        tags = torch.stack([whole.labels % 2, whole.labels // 5, whole.labels % 3 == 0], 1).float()
        return ImageTensors(whole.images, tags)

    def check_targets(self, targets, name):
        assert targets.shape[1:] == (3,)

    def strata(self, targets):
        return targets[:, 0].long()

class Tagger(Classifier):
    def make_metrics(self):
        return {"accuracy": MultilabelAccuracy(num_labels=3)}
"""
"""A task with several labels an image, as a file: its data source and its model."""
