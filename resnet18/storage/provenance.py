"""Where a run came from: code, versions, command, machine, seed and split, as plain values for ``provenance.json``."""

import contextlib
import importlib.metadata
import inspect
import os
import platform
import shlex
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

PACKAGE, STDLIB = Path(__file__).parents[1], sysconfig.get_path("stdlib")
INSTALLED = {"site-packages", "dist-packages"}
LARGEST = 2**20  # bytes of a user's file, and characters of a diff, that a run keeps
DISTRIBUTIONS = ("resnet18", "torch", "torchvision", "lightning", "torchmetrics", "wandb", "jsonargparse", "numpy")


def versions() -> dict[str, str]:
    """Of Python, this project and the packages that may change a result."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}


def _git(place: Path, *arguments: str) -> str | None:
    # Without optional locks: a commit in the same repository must not fail meanwhile.
    command = ["git", "--no-optional-locks", "-C", str(place), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _repository(place: Path) -> dict[str, str] | None:
    """The commit of the repository that a directory is in and what differs from it; None without a commit."""
    sha, top = _git(place, "rev-parse", "HEAD"), _git(place, "rev-parse", "--show-toplevel")
    if sha is None or top is None:
        return None
    return {
        "directory": top.strip(),
        "sha": sha.strip(),
        "status": _git(place, "status", "--porcelain") or "",  # names untracked files too
        "diff": (_git(place, "diff", "HEAD") or "")[:LARGEST],
    }


def own_sources(objects: Iterable[Any]) -> dict[str, bytes]:
    """The user's files that define these, neither installed nor ours nor large: ``mypackage/net.py`` and content."""
    found: dict[str, bytes] = {}
    for module in filter(None, {inspect.getmodule(made) for made in objects}):
        path = Path(getattr(module, "__file__", None) or "")
        installed = INSTALLED & set(path.parts) or any(path.is_relative_to(place) for place in (PACKAGE, STDLIB))
        if not installed and path.suffix == ".py" and path.is_file() and path.stat().st_size <= LARGEST:
            package = "/__init__" if path.stem == "__init__" else ""
            found[f"{module.__name__.replace('.', '/')}{package}.py"] = path.read_bytes()
    return found


def provenance(seed: int, split_hash: str) -> dict[str, Any]:
    """What to keep beside a run's configuration; the hash is :func:`~resnet18.data.splits.fingerprint`'s."""
    # The package's repository, unless the package is merely installed below it, and the working directory's.
    tracked = _git(PACKAGE, "ls-files", "--error-unmatch", "__init__.py") is not None
    package, here = _repository(PACKAGE) if tracked else None, _repository(Path.cwd())
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "directory": os.getcwd(),
        "git": package,
        "directory_git": None if here == package else here,
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
    """The part of a :func:`provenance` to publish with a measurement: without paths, names or a diff."""
    return {
        "hardware": {name: value for name, value in origin["hardware"].items() if name != "host"},
        "versions": origin["versions"],
        "git": origin["git"] and origin["git"]["sha"],
        "started": origin["started"],
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
