"""What one run reached: its curve, and the scores of its last `lightning test` if there are any, from its own files.

    python benchmarks/stored_run.py RUN NAME     # writes benchmarks/results/NAME.json

The directories that the command named stand as DIR.
"""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from resnet18.storage.provenance import measured_with
from resnet18.storage.records import read_evaluations, read_metrics

ROOT = Path(__file__).parents[1]


def without_places(command: str) -> str:
    """A command as another machine would have it."""
    words = ["lightning", *shlex.split(command)[1:]]
    return shlex.join(
        f"configs/{Path(word).name}" if word.endswith(".yaml") else "DIR" if os.path.isabs(word) else word
        for word in words
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    run: Path = options.run
    origin = json.loads((run / "provenance.json").read_text())
    rows = read_metrics(run)
    scores = next((found for found in reversed(read_evaluations(run)) if found["command"] == "test"), {})
    result: dict[str, Any] = {
        "command": without_places(origin["command"]),
        "best_val_top1": max(row["val/top1"] for row in rows if "val/top1" in row),
        "test": {name: value for name, value in scores.items() if name.startswith("test/")} or None,
        "curve": rows,
        "split_hash": origin["split_hash"],
        **measured_with(origin),
    }
    path = ROOT / "benchmarks" / "results" / f"{options.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"best val/top1 {result['best_val_top1']:.4f}, stored in {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
