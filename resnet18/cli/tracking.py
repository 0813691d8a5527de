"""What W&B gets besides the rows of a run: what describes it, evaluations, pictures and checkpoints."""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from resnet18.report.wandb_media import log_evaluation
from resnet18.storage.loggers import WandbRun, first_line
from resnet18.storage.records import FOLDER, PROVENANCE, read_json
from resnet18.storage.wandb_start import finish_wandb, reopen_wandb, started

PARTS = {"validate": "val", "test": "test"}  # of the data


def described(directory: Path) -> dict[str, Any]:
    """What to find and sort runs by, besides their configurations."""
    origin = read_json(directory / PROVENANCE)
    found = {name: origin.get(name) for name in ("parameters", "images", "split_hash", "versions")}
    return {**found, "git": (origin.get("git") or {}).get("sha")}


def track_evaluation(directory: Path, command: str, checkpoint: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Adds an evaluation to a run's W&B run: with options of its own under another name, not to be taken for it."""
    section = "_".join([command, *["flip_tta"] * found["flip_tta"], *["changed"] * bool(found["given"])])
    scores = {f"{section}/{name.partition('/')[2]}": value for name, value in found.items() if "/" in name}
    try:
        if logger := reopen_wandb(directory):
            logger.log_metrics({"epoch": checkpoint["epoch"], **scores}, checkpoint["global_step"] - 1)
            _draw(logger, directory, PARTS[command], section)
            finish_wandb([logger], 0)
    except Exception as error:
        print(f"W&B did not take the scores: {first_line(error)}", file=sys.stderr)


def finish_tracking(loggers: Iterable[Logger], directory: Path, ended: bool) -> None:
    """Adds the last evaluation to the W&B runs and ends them; of a run that was not stopped also the checkpoints."""
    for logger in started(loggers):
        _draw(logger, directory, "val", "val")
        if ended and isinstance(logger, WandbRun):
            _attempt("no checkpoints", lambda logger=logger: logger.upload(directory / FOLDER))
        finish_wandb([logger], 0 if ended else 1)


def _draw(logger: WandbLogger, directory: Path, part: str, section: str) -> None:
    _attempt("no pictures", lambda: log_evaluation(logger, directory, part, section))


def _attempt(lost: str, send: Callable[[], None]) -> None:
    try:
        send()
    except Exception as error:  # of any library: it must not hide how the run ended
        print(f"W&B gets {lost}: {first_line(error)}", file=sys.stderr)
