"""The files in a run's directory, written and read back: configuration, origin, state and evaluations.

Light, for commands that only look at runs: nothing here imports torch.
"""

import contextlib
import csv
import json
import secrets
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resnet18.errors import RunError, UsageError

FOLDER, BEST, LAST, PREVIOUS = "checkpoints", "best.ckpt", "last.ckpt", "previous.ckpt"
CONFIG, PROVENANCE, METRICS, EVALUATIONS = "config.yaml", "provenance.json", "metrics.csv", "evaluations.jsonl"
EVALUATION_VERSION = 1
STATUS, PICTURES, CODE, LATEST = "status.json", "evaluation", "code", "latest"


def new_run_id() -> str:
    """Sorts by time; the last four digits keep runs apart that start within a second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def create_run(
    directory: Path, config: dict[str, Any], provenance: dict[str, Any], sources: Mapping[str, bytes], link: bool
) -> None:
    """Makes the directory of a new run with its configuration, and with ``link`` points ``latest`` to it."""
    if directory.is_dir() and any(directory.iterdir()):
        resume = f"--ckpt_path {shlex.quote(str(directory))}"
        raise UsageError(f"run_dir: {directory} is not empty; {resume} resumes the run in it")
    try:
        (directory / FOLDER).mkdir(parents=True)
        write_config(directory, config)
        (directory / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        for name, content in sources.items():
            path = directory / CODE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise RunError(f"run_dir: {directory} can't be written: {error.strerror}") from None
    if link:
        # Made under another name and renamed: a reader finds the old run or the new one, never none.
        partial = directory.with_name(f".{LATEST}-{directory.name}")
        with contextlib.suppress(OSError, NotImplementedError):  # Windows allows links to administrators only
            partial.symlink_to(directory.name, target_is_directory=True)
            partial.replace(directory.with_name(LATEST))
        partial.unlink(missing_ok=True)


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Writes a run's ``config.yaml``, whole or not at all."""
    partial = directory / f".{CONFIG}"
    partial.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    partial.replace(directory / CONFIG)


def read_config(directory: Path) -> dict[str, Any]:
    """A run's whole configuration.

    Raises:
        RunError: Where there is none, or it is broken.
    """
    path = directory / CONFIG
    try:
        content = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # 10×
    except FileNotFoundError:
        raise RunError(f"{directory} is not a run: it has no {CONFIG}") from None
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} can't be read: it holds no keys and values")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file with a line for each key, whole or not at all."""
    lines = [f" {json.dumps(key)}: {json.dumps(value, default=str)}" for key, value in content.items()]
    partial = path.with_name(f".{path.name}")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is no file.

    Raises:
        RunError: Where it is broken.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} can't be read: it holds no keys and values")
    return content


def evaluation_path(directory: Path, part: str) -> Path:
    """Where a run keeps what its last evaluation on ``val`` or ``test`` found."""
    return directory / f"evaluation-{part}.json"


def read_evaluation(directory: Path, part: str) -> dict[str, Any] | None:
    """What a run's last evaluation on ``val`` or ``test`` found; None where there was none.

    Raises:
        RunError: Where the file is broken or of a later version.
    """
    path = evaluation_path(directory, part)
    found = read_json(path)
    if found and found.get("version") != EVALUATION_VERSION:
        raise RunError(f"{path} is of version {found.get('version')}; this program reads {EVALUATION_VERSION}")
    return found or None


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The rows of a run's ``metrics.csv`` without their empty cells."""
    if not (directory / METRICS).exists():
        return []
    with (directory / METRICS).open(newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def append_evaluation(directory: Path, command: str, checkpoint: Path, found: dict[str, Any]) -> None:
    """Adds scores, and how they were measured, to a run's ``evaluations.jsonl``."""
    path, place = directory / EVALUATIONS, checkpoint.resolve().relative_to(directory.resolve())
    record = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command, "checkpoint": place.as_posix(), **found}
    line = json.dumps(record, default=str) + "\n"
    try:
        with path.open("ab", buffering=0) as file:  # in one write to the end: two commands at a time both succeed
            file.write(line.encode())
    except OSError as error:  # as in another user's run
        print(f"{path} can't be written: {error.strerror}; the scores are kept nowhere", file=sys.stderr)


def read_evaluations(directory: Path) -> list[dict[str, Any]]:
    """The records of a run's ``evaluations.jsonl``, oldest first."""
    path = directory / EVALUATIONS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
