"""Where a run came from: code, versions, command, machine, seed and split, as plain values for ``provenance.json``."""

import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from typing import Any

import torch

import resnet18

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "wandb", "jsonargparse", "numpy")


def versions() -> dict[str, str]:
    """Of Python, of this project and of the packages whose numbers a result may depend on."""
    installed = {"python": platform.python_version(), "resnet18": resnet18.__version__}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def provenance(seed: int, split_hash: str) -> dict[str, Any]:
    """What to keep beside a run's configuration.

    Args:
        seed: The seed of the run.
        split_hash: Fingerprint of the split, see :func:`~resnet18.data.splits.fingerprint`.
    """
    sha = _git("rev-parse", "HEAD")
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "directory": os.getcwd(),
        "git": {"sha": sha.strip(), "diff": _git("diff", "HEAD") or ""} if sha else None,
        "versions": versions(),
        "hardware": {
            "host": socket.gethostname(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "cpu": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        },
        "seed": seed,
        "split_hash": split_hash,
    }


def measured_with(origin: dict[str, Any]) -> dict[str, Any]:
    """What of a :func:`provenance` belongs beside a published measurement: neither paths, nor names, nor a diff."""
    return {
        "hardware": {name: value for name, value in origin["hardware"].items() if name != "host"},
        "versions": origin["versions"],
        "git": origin["git"] and origin["git"]["sha"],
        "started": origin["started"],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
