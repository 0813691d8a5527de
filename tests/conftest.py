"""One small run, trained once by the real program and shared by the tests; and ways to call that program."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import pytest
from PIL import Image
from wandb_server import WandbServer

# Before anything imports W&B or Lightning: tests neither ask nor reach for a network.
os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true")
# Whatever the shell says: the networks are tiny, two workers of two threads wait for each other, and a run in this
# process and one in another are compared to the last bit, which needs the same number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
for name in ("API_KEY", "PROJECT", "ENTITY", "RUN_GROUP", "TAGS", "NAME", "NOTES", "JOB_TYPE", "RUN_ID"):
    os.environ.pop(f"WANDB_{name}", None)
os.environ.pop("PL_GLOBAL_SEED", None)
# torch 2.14 finds a compiled graph again whatever instructions it was compiled for, and then computes nonsense.
if isa := os.environ.get("ATEN_CPU_CAPABILITY"):
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"torchinductor-{isa}")))

ROOT = Path(__file__).parents[1]
collect_ignore = [] if (ROOT / "benchmarks").is_dir() else ["benchmarks"]  # a fork may do without
CONFIG = ROOT / "configs" / "digits.yaml"
SMALL = ("--model.backbone.width", "8", "--trainer.precision", "32-true")
"""Overrides that make the main configuration a matter of a second an epoch."""

DROPOUT_NET = """
import torch
from torch import nn

class WithDropout(nn.Module):
    # Small and quick, with everything that a resume can get wrong: norm statistics, dropout, momentum.
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
"""
DROPOUT_RUN = (
    *("fit", "--model.backbone", "mynet.WithDropout", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1"),
    *("--model.optimizer.momentum", "0.9", "--model.schedule", "resnet18.schedules.WarmupCosine", "--data", "Digits"),
    *("--data.eval_batch_size", "32", "--trainer.log_every_n_steps", "5", "--trainer.logger", "false"),
)
"""A run of that network, in ``./mynet.py``: 20 steps an epoch, logged every 5, and validated in 5 batches."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return min((os.cpu_count() or 1) + 1, 4)  # one more than there are cores: many tests wait for a process


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the others are the CPU's on any machine


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and os.environ.get("GPU_TESTS_ON") != "cpu":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device, or not asked for one: make gpu")


@dataclass
class Done:
    """What a command gave: its exit status and what it wrote to both streams."""

    status: int
    out: str
    err: str


def picture(number: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth colour image, another for every number."""
    coarse = numpy.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=numpy.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def picture_folder(place: Path, classes: Sequence[str] = ("cat", "dog"), each: int = 6, suffix: str = ".jpg") -> Path:
    """A directory with a directory for each class and images in it."""
    for label, name in enumerate(classes):
        (place / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture(1000 * label + number, 40 + number % 3).save(place / name / f"{number}{suffix}")
    return place


def archive_of(source: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, numpy.ndarray]:
    """Writes a small archive in CIFAR's own form, and lets torchvision's reader expect its checksums."""
    reader = source.archive
    folder = place / reader.base_folder
    folder.mkdir(parents=True)
    classes, images, lists = len(source.class_names), {}, {}
    for kind, listed in (("train", reader.train_list), ("test", reader.test_list)):
        count = 2 * classes if kind == "train" else classes
        pixels = numpy.random.default_rng(len(kind)).integers(0, 256, (len(listed), count, 3072), dtype=numpy.uint8)
        images[kind] = pixels.reshape(-1, 3, 32, 32)
        lists[kind] = []
        for (name, _), part in zip(listed, pixels, strict=True):
            labels = {"labels" if classes == 10 else "fine_labels": [number % classes for number in range(count)]}
            content = pickle.dumps({"data": part, **labels})
            (folder / name).write_bytes(content)
            lists[kind].append([name, md5(content).hexdigest()])
    meta = pickle.dumps({reader.meta["key"]: list(source.class_names)})
    (folder / reader.meta["filename"]).write_bytes(meta)
    monkeypatch.setattr(reader, "train_list", lists["train"])
    monkeypatch.setattr(reader, "test_list", lists["test"])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(meta).hexdigest()})
    return images


@pytest.fixture
def lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Calls the program's ``main`` in this process, in an empty directory."""
    from resnet18.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    # An earlier test's.
    for name in ("mynet", "mydata", "mymodel", "myloss", "mycallback", "mycallbacks", "mytask"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # bound to an earlier test's stream
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.stream = sys.stderr
        with patch.dict(os.environ):  # Lightning leaves the ranks' variables there
            status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(status, out, err)

    return call


def start(
    arguments: Sequence[object], cwd: Path, program: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    """Starts the program as a process of its own."""
    program = program or (sys.executable, "-m", "resnet18")
    # W&B's service of this process would outlive one that is killed, and keep its run open.
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        [*program, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wandb_records(part: Path) -> list[dict[str, Any]]:
    """A part of an offline W&B run, read back by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(part)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines()]


@pytest.fixture(scope="module")
def wandb_server() -> Iterator[WandbServer]:
    """A stand-in for W&B's server; a process whose environment has ``wandb_server.environment`` goes online."""
    server = WandbServer()
    yield server
    server.close()
    assert server.errors == []


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a small network's run on the digits, 3 epochs, made by ``lightning fit`` in this process.

    Not to be changed: ``validate`` and ``test`` write into a run, so they take a copy.
    """
    from resnet18.__main__ import main

    place = tmp_path_factory.mktemp("trained")
    before, argv = Path.cwd(), sys.argv
    os.chdir(place)
    sys.argv = ["lightning"]
    try:
        assert main(["fit", "--config", str(CONFIG), *SMALL, "--trainer.max_epochs", "3"]) == 0
    finally:
        os.chdir(before)
        sys.argv = argv
    run = (place / "runs" / "digits" / "latest").resolve()
    yield run
    assert not (run / "evaluations.jsonl").exists(), "a test has scored the shared run"


def copied(run: Path, place: Path) -> Path:
    """A copy of a run, of the same name and with ``latest`` beside it."""
    copy = Path(shutil.copytree(run, place / "runs" / "digits" / run.name, symlinks=True))
    (copy.parent / "latest").symlink_to(copy.name)
    return copy
