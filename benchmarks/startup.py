"""How long the program takes to answer, and to reach its first training step, beside importing its libraries.

    python benchmarks/startup.py                 # about 2 minutes; writes benchmarks/results/startup.json

Each round runs everything once, in turns; medians over the rounds are stored.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "startup.json"
ROUNDS = 7
PROBE = """
import os
from lightning.pytorch import Callback

class Probe(Callback):
    def on_train_batch_start(self, *args, **kwargs):
        os._exit(0)  # the first step is reached
"""
PROGRAM = [str(Path(sys.executable).parent / "lightning")]
LIBRARIES = "import torch, torchvision, lightning.pytorch, torchmetrics"
CONFIG = str(ROOT / "configs" / "digits.yaml")
COMMANDS = {
    "libraries": [sys.executable, "-c", LIBRARIES],
    "first_step": [
        *PROGRAM,
        "fit",
        "--config",
        str(ROOT / "configs" / "digits.yaml"),
        "--trainer.callbacks+=probe.Probe",
    ],
    "help": [*PROGRAM, "--help"],
    "version": [*PROGRAM, "--version"],
    "unknown_command": [*PROGRAM, "nonsense"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as place:
        Path(place, "probe.py").write_text(PROBE)
        for _ in range(ROUNDS):
            for name, command in COMMANDS.items():
                began = time.perf_counter()
                subprocess.run(command, cwd=place, capture_output=True)
                seconds[name].append(time.perf_counter() - began)
        if not list(Path(place).glob("runs/digits/*/config.yaml")):
            sys.exit("the first step was not reached")
    ratios = [step / base for step, base in zip(seconds["first_step"], seconds["libraries"], strict=True)]
    result: dict[str, Any] = {
        "command": "python benchmarks/startup.py",
        "rounds": ROUNDS,
        **{f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()},
        "first_step_over_libraries": round(statistics.median(ratios), 3),
    }
    result |= measured_with(provenance(seed=1, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, dict)}, indent=2))


if __name__ == "__main__":
    main()
