"""What a configuration reaches: trains and tests it with several seeds, as a user would, and stores the numbers.

    python benchmarks/recipe.py configs/digits.yaml              # 5 seeds; writes benchmarks/results/digits.json
    python benchmarks/recipe.py configs/digits.yaml --name digits_float32       # on a CPU without bf16 instructions

The header of the configuration quotes the results; a test holds them together.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from resnet18.storage.provenance import measured_with
from resnet18.storage.records import read_evaluations

ROOT = Path(__file__).parents[1]


def lightning(*arguments: object, cwd: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "resnet18", *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def one(config: Path, seed: int) -> dict[str, Any]:
    """A run with one seed, tested once by its best checkpoint."""
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        shown = lightning("fit", "--config", config, "--seed_everything", seed, "--run_dir", "run", cwd=place)
        whole = time.monotonic() - began
        lightning("test", "--ckpt_path", "run", cwd=place)
        scores = read_evaluations(Path(place, "run"))[-1]
        origin = json.loads(Path(place, "run", "provenance.json").read_text())
        precision = yaml.safe_load(Path(place, "run", "config.yaml").read_text())["trainer"]["precision"]
    epochs = [float(line.rsplit(maxsplit=2)[1]) for line in shown.splitlines() if re.match(r"epoch +\d+/", line)]
    return {
        "seed": seed,
        "test_top1": scores["test/top1"],
        "test_loss": scores["test/loss"],
        "training_s": round(sum(epochs), 1),
        "process_s": round(whole, 1),
        "precision": precision,
        "origin": origin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--name", help="of the file in benchmarks/results; by default the configuration's")
    options = parser.parse_args()
    config = options.config.resolve()
    name = options.name or config.stem
    runs = []
    for seed in range(1, options.seeds + 1):
        runs.append(one(config, seed))
        print({key: value for key, value in runs[-1].items() if key != "origin"}, flush=True)
    origin = runs[0]["origin"]
    top1 = [run["test_top1"] for run in runs]
    result = {
        "config": str(config.relative_to(ROOT)),
        "command": f"python benchmarks/recipe.py {config.relative_to(ROOT)} --seeds {options.seeds} --name {name}",
        "test_top1_mean": statistics.mean(top1),
        "test_top1_sd": statistics.stdev(top1),
        "training_s_median": statistics.median(run["training_s"] for run in runs),
        "process_s_median": statistics.median(run["process_s"] for run in runs),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "runs": [{key: value for key, value in run.items() if key != "origin"} for run in runs],
        "split_hash": origin["split_hash"],
        **measured_with(origin),
    }
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['test_top1_mean']:.4f} ± {result['test_top1_sd']:.4f}, stored in {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
