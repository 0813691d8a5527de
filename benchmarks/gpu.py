"""What a GPU does with this project: the tests that need one, and a few measured numbers, in one file.

    make gpu        # within ten minutes on one GPU; writes benchmarks/results/gpu.json, also where a test fails

Without a CUDA device it says so, exit status 1, and leaves no file. ``--on cpu`` tries the same on the CPU.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from resnet18.commands.measure import Clock
from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.order import Shard
from resnet18.data.feeds.resident import ImageTensors, TrainLoader
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
TESTS_S, COMMAND_S = 330, 75  # limits: of all tests, and of each measured command
MADE = """
import torch
from resnet18 import ImageDataModule, ImageTensors

class Made(ImageDataModule):
    # Random pixels, as many as CIFAR-10 has.
    class_names = tuple("abcdefghij")
    mean, std = [0.5] * 3, [0.29] * 3
    input_size = (3, 32, 32)

    def load(self, part: str) -> ImageTensors:
        pixels = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator())
        return ImageTensors(pixels, torch.arange(50_000) % 10)
"""


def write(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=2) + "\n")


def run_tests(device: str, select: str, place: Path) -> tuple[int, list[dict[str, Any]]]:
    """pytest's exit status, and the outcome of every test."""
    report = place / "report.xml"
    limits = ["-n", "0", f"--session-timeout={TESTS_S}", f"--junitxml={report}", "-o", "junit_logging=no"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", select, *limits, "tests/gpu"]
    try:
        environment = {**os.environ, "GPU_TESTS_ON": device}
        status = subprocess.run(command, cwd=ROOT, env=environment, timeout=TESTS_S + COMMAND_S).returncode
    except subprocess.TimeoutExpired:
        status = 1
    if not report.exists():
        return status or 1, [{"name": "all", "outcome": "failure", "reason": "pytest was cut off"}]
    tests = []
    for case in ElementTree.parse(report).iter("testcase"):
        test: dict[str, Any] = {"name": f"{case.get('classname')}.{case.get('name')}", "outcome": "passed"}
        test["seconds"] = round(float(case.get("time", 0)), 2)
        for kind in ("failure", "error", "skipped"):
            if (found := case.find(kind)) is not None:
                test |= {"outcome": kind, "reason": found.get("message", "")[:2000]}
        tests.append(test)
    return status, tests


def lightning(place: Path, *arguments: object) -> str:
    """What the program prints.

    Raises:
        RuntimeError: With what it says where it fails.
    """
    command = [sys.executable, "-m", "resnet18", *map(str, arguments)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=COMMAND_S)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:])
    return done.stdout


def feed(device: torch.device) -> dict[str, Any]:
    """The resident feed alone: 32×32 pixels, shift and flip, 512 a batch."""
    pixels = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator())
    augmentation = Augmentation(translate=4, flip=True)
    loader = TrainLoader(ImageTensors(pixels, torch.arange(50_000) % 10), 512, 1, augmentation, shard=Shard(device))
    rates = []
    for _ in range(5):
        clock = Clock(device, steps=len(loader) // 2, seconds=0.5)
        clock.begin()
        while not clock.done:
            for _ in loader:
                clock.step()
                if clock.done:
                    break
        rates.append(round(512 / clock.step_ms * 1000))
    return {"images_per_s": sorted(rates)[2], "rounds": rates, "batch_size": 512}


def bench(place: Path, *options: object) -> dict[str, Any]:
    """``lightning bench``: the feed, the bare loop and the Trainer."""
    lightning(place, "bench", *options, "--json", "bench.json")
    measured = json.loads((place / "bench.json").read_text())
    kept = ("rows", "trainer_extra_ms_a_step", "batch_size", "precision", "rounds", "steps_a_round")
    return {name: measured[name] for name in kept}


def digits(place: Path, *options: object) -> dict[str, Any]:
    """The digits recipe: how long it takes, and what it reaches."""
    began = time.monotonic()
    shown = lightning(place, "fit", "--config", ROOT / "configs" / "digits.yaml", *options, "--run_dir", "run")
    process_s = round(time.monotonic() - began, 1)
    epochs = [float(line.rsplit(maxsplit=2)[1]) for line in shown.splitlines() if re.match(r"epoch +\d+/", line)]
    scores = lightning(place, "test", "--ckpt_path", "run")
    top1 = re.search(r"test/top1 ([\d.]+) %", scores)
    reached = float(top1[1]) if top1 else None
    return {"training_s": round(sum(epochs), 1), "process_s": process_s, "test_top1_percent": reached}


def about(device: torch.device) -> dict[str, Any]:
    """The device, as its driver has it."""
    if device.type != "cuda":
        return {"name": device.type}
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        driver = None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": list(torch.cuda.get_device_capability(0)),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": list(torch.cuda.nccl.version()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--select", default="", help="The tests to run, as pytest's -k takes them.")
    options = parser.parse_args()
    if options.on == "cuda" and not torch.cuda.is_available():
        print("gpu: there is no CUDA device; nothing was run", file=sys.stderr)
        return 1
    began, device = time.monotonic(), torch.device(options.on, 0) if options.on == "cuda" else torch.device("cpu")
    command = ["python", "benchmarks/gpu.py", *sys.argv[1:]]
    result: dict[str, Any] = {"command": " ".join(command), "device": about(device)}
    result |= measured_with(provenance(seed=1, split_hash=""))

    small: tuple[str, ...] = ()
    if options.on == "cpu":
        small = ("--model.backbone.width", "8", "--trainer.max_epochs", "1", "--trainer.precision", "32-true")
    on = ("--trainer.accelerator", {"cuda": "gpu", "cpu": "cpu"}[options.on], "--trainer.devices", "1", *small)
    steps = ("--steps", 6 if small else 300)
    recipes = ROOT / "configs"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        status, result["tests"] = run_tests(options.on, options.select, place)
        write(result, options.output)
        (place / "made.py").write_text(MADE)
        cifar = ("--config", recipes / "cifar10.yaml", "--data", "made.Made", "--data.batch_size", 64 if small else 512)
        measurements = {
            "feed": lambda: feed(device),
            "digits": lambda: digits(place, *on),
            "bench_digits": lambda: bench(place, "--config", recipes / "digits.yaml", *on, *steps),
            "bench_cifar10_like": lambda: bench(place, *cifar, *on, *steps),
        }
        for measurement, measure in measurements.items():
            try:
                result[measurement] = measure()
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                result[measurement], status = {"error": str(error)}, status or 1
            print(f"{measurement}: {json.dumps(result[measurement])[:300]}", flush=True)
            write(result, options.output)
    result["seconds"] = round(time.monotonic() - began, 1)
    write(result, options.output)
    print(f"{options.output}: {len(result['tests'])} tests, exit status {status}, {result['seconds']:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
