"""How long `lightning runs` takes over 200 runs, from process start to end, beside `lightning --version`.

    python benchmarks/run_list.py                # half a minute; writes benchmarks/results/run_list.json

The runs are copies of one real run with other seeds and learning rates, and with metrics for 100 epochs. Each round
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

from resnet18.storage.provenance import measured_with, provenance
from resnet18.storage.records import METRICS, PROVENANCE, STATUS, append_evaluation, read_config, write_config

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "run_list.json"
ROUNDS, RUNS, EPOCHS = 9, 200, 100
PROGRAM = [sys.executable, "-m", "resnet18"]
FIT = ["fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--model.backbone.width", "8"]
COMMANDS = {"runs": [*PROGRAM, "runs"], "runs_json": [*PROGRAM, "runs", "--json"], "version": [*PROGRAM, "--version"]}


def make_runs(place: str) -> int:
    """Trains one run and copies its files; returns how many rows the metrics of each copy have."""
    source = Path(place, "source")
    subprocess.run([*PROGRAM, *FIT, "--trainer.max_epochs", "1", "--run_dir", str(source)], check=True, cwd=place)
    header, *rows = (source / METRICS).read_text().splitlines()
    epochs = [",".join([str(epoch), *row.split(",")[1:]]) for epoch in range(EPOCHS) for row in rows]
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
        rows = make_runs(place)
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
                if name == "runs" and len(done.stdout.splitlines()) != RUNS + 2:
                    sys.exit("not every run is in the table")
    result: dict[str, Any] = {
        "command": "python benchmarks/run_list.py",
        "rounds": ROUNDS,
        "runs": RUNS,
        "rows_of_metrics": rows,
        **{f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()},
    }
    result |= measured_with(provenance(seed=1, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, dict)}, indent=2))


if __name__ == "__main__":
    main()
