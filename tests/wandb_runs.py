"""Runs that are killed with rows on their way to W&B, and their rows on a stand-in for its server."""

import csv
import time
from pathlib import Path

from conftest import CONFIG, SMALL, start
from wandb_server import Run

SLOWLY = """
import time
from lightning.pytorch import Callback

class Slowly(Callback):
    def on_train_batch_start(self, *arguments):
        time.sleep(0.05)
"""


def kill_a_run(place: Path, *arguments: str, **environment: str) -> None:
    """Starts a run of 60 steps in ``place``/run, and kills it in step 35 or so, after a checkpoint at 30."""
    (place / "slowly.py").write_text(SLOWLY)
    often = ("--trainer.log_every_n_steps", "2", "--last.every_n_steps", "10", "--trainer.callbacks+", "slowly.Slowly")
    options = ("--trainer.max_epochs", "3", "--run_dir", "run", *often, *arguments)
    process = start(["fit", "--config", CONFIG, *SMALL, *options], place, **environment)
    metrics, until = place / "run" / "metrics.csv", time.monotonic() + 120
    while not metrics.exists() or "\n1,33," not in metrics.read_text():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()


def written(directory: Path) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv`` without their empty cells."""
    with (directory / "metrics.csv").open() as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def history(run: Run) -> list[dict[str, str]]:
    """The rows that the server has, as ``metrics.csv`` holds them; without those of pictures and tests."""
    kept = []
    for row in run.rows:
        values = {name: value for name, value in row.items() if name[0] != "_" and name != "trainer/global_step"}
        if not any(isinstance(value, dict) or name.startswith("test/") for name, value in values.items()):
            measured = {name: f"{value:.6g}" for name, value in values.items()}
            kept.append({**measured, "epoch": str(int(row["epoch"])), "step": str(row["trainer/global_step"])})
    return kept
