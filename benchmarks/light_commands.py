"""How long `lightning runs` takes over 200 runs and `lightning report` on one, beside `lightning --version`.

    python benchmarks/light_commands.py      # a minute; writes benchmarks/results/light_commands.json

From process start to end. The runs are copies of a real one with other seeds and learning rates, and with metrics for
100 epochs; the page is of 200 epochs, with photograph-like pictures of 128 pixels in place of the digits. Each round
runs every command once, in turns; medians over the rounds are stored, of wall-clock and of processor time.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from resnet18.storage.provenance import measured_with, provenance
from resnet18.storage.records import METRICS, PICTURES, PROVENANCE, STATUS, append_evaluation, read_config, write_config

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "light_commands.json"
ROUNDS, RUNS, EPOCHS, REPORTED = 9, 200, 100, 200
PROGRAM = [sys.executable, "-m", "resnet18"]
FIT = ["fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--model.backbone.width", "8"]
COMMANDS = {
    "runs": [*PROGRAM, "runs"],
    "runs_json": [*PROGRAM, "runs", "--json"],
    "report": [*PROGRAM, "report", "source"],
    "version": [*PROGRAM, "--version"],
}


def make_runs(place: str) -> int:
    """Trains one run and copies its files; returns how many rows the metrics of each copy have."""
    source = Path(place, "source")
    subprocess.run([*PROGRAM, *FIT, "--trainer.max_epochs", "1", "--run_dir", str(source)], check=True, cwd=place)
    subprocess.run([*PROGRAM, "test", "--ckpt_path", str(source)], check=True, cwd=place, capture_output=True)
    header, *rows = (source / METRICS).read_text().splitlines()
    epochs = [",".join([str(epoch), *row.split(",")[1:]]) for epoch in range(REPORTED) for row in rows]
    (source / METRICS).write_text("\n".join([header, *epochs, ""]))
    for number, picture in enumerate(sorted((source / PICTURES).glob("*-*"))):
        coarse = numpy.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=numpy.uint8)
        Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC).save(picture, "jpeg")
    epochs = epochs[: EPOCHS * len(rows)]
    config: dict[str, Any] = read_config(source)
    config["trainer"]["max_epochs"] = EPOCHS
    for number in range(RUNS):
        run = Path(place, "runs", "digits", f"20261124-{number:06d}-abcd")
        run.mkdir(parents=True)
        for name in (PROVENANCE, STATUS):
            (run / name).write_bytes((source / name).read_bytes())
        config["seed_everything"] = number
        config["model"]["optimizer"]["init_args"]["lr"] = 0.001 * (1 + number % 5)
        write_config(run, config)
        (run / METRICS).write_text("\n".join([header, *epochs, ""]))
        append_evaluation(run, "test", run / "best.ckpt", {"given": {}, "flip_tta": False, "test/top1": 0.9})
    return len(epochs)


def main() -> None:
    seconds: dict[str, list[float]] = {f"{name}{kind}": [] for name in COMMANDS for kind in ("", "_cpu")}
    with tempfile.TemporaryDirectory() as place:
        rows, page = make_runs(place), 0
        for _ in range(ROUNDS):
            for name, command in COMMANDS.items():
                began, used = time.perf_counter(), os.times()
                done = subprocess.run(command, cwd=place, capture_output=True, text=True)
                seconds[name].append(time.perf_counter() - began)
                now = os.times()
                cpu = now.children_user + now.children_system - used.children_user - used.children_system
                seconds[f"{name}_cpu"].append(cpu)
                if done.returncode or done.stderr:
                    sys.exit(done.stderr)
                if name == "report":
                    page = Path(place, "source", "report.html").stat().st_size
                if name == "runs" and len(done.stdout.splitlines()) != RUNS + 2:
                    sys.exit("not every run is in the table")
    result: dict[str, Any] = {
        "command": "python benchmarks/light_commands.py",
        "rounds": ROUNDS,
        "runs": RUNS,
        "rows_of_metrics": rows,
        "report_epochs": REPORTED,
        "report_bytes": page,
        **{f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()},
    }
    result |= measured_with(provenance(seed=1, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, dict)}, indent=2))


if __name__ == "__main__":
    main()
