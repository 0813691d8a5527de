"""What everything that is logged and drawn costs a whole run: its share of the seconds of `lightning fit`.

    python benchmarks/dashboard_cost.py     # about 5 minutes; writes benchmarks/results/dashboard_cost.json

It trains configs/digits.yaml as shipped, and adds up the time inside the callbacks that log and keep evaluations, the
two loggers, W&B's start and end, and the report. On a CPU that is all they cost: nothing runs meanwhile.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet18.callbacks.evaluation import EvaluationRecord
from resnet18.callbacks.training_log import TrainingLog
from resnet18.cli import fitting, program
from resnet18.storage.loggers import WandbRun
from resnet18.storage.metrics_file import MetricsFile
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "dashboard_cost.json"
ROUNDS = 2
WHILE_TRAINING = {
    "training_log": (TrainingLog, [name for name in vars(TrainingLog) if name.startswith("on_")]),
    "evaluation": (EvaluationRecord, [name for name in vars(EvaluationRecord) if name.startswith("on_")]),
    "wandb_rows": (WandbRun, ["log_metrics", "log_hyperparams"]),
    "metrics_csv": (MetricsFile, ["log_metrics", "save"]),
}
ONCE = {
    "wandb_start": (fitting, ["start_wandb"]),
    "wandb_end": (fitting, ["finish_tracking"]),
    "report": (program, ["write_report"]),
}


class Clock:
    """Seconds by name; what is timed inside something that is timed counts once, for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self.seconds[name] += took - self._inner.pop()
                self._inner[-1] += took

        return call


def main() -> None:
    rounds: list[dict[str, float]] = []
    clock = Clock()
    for name, (place, functions) in {**WHILE_TRAINING, **ONCE}.items():
        for function in functions:
            setattr(place, function, clock.timed(name, getattr(place, function)))
    sys.argv = ["lightning"]
    for _ in range(ROUNDS):
        clock.seconds.clear()
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            began = time.perf_counter()
            fitting.run("fit", ["--config", str(ROOT / "configs" / "digits.yaml")])
            rounds.append({**clock.seconds, "fit": time.perf_counter() - began})
            os.chdir(ROOT)
    shares = {name: [100 * one[name] / one["fit"] for one in rounds] for name in (*WHILE_TRAINING, *ONCE)}
    together = [sum(one[name] for name in WHILE_TRAINING) for one in rounds]
    whole = [sum(one[name] for name in (*WHILE_TRAINING, *ONCE)) for one in rounds]
    result: dict[str, Any] = {
        "command": "python benchmarks/dashboard_cost.py",
        "rounds": ROUNDS,
        "fit_s": round(statistics.median(one["fit"] for one in rounds), 1),
        "percent": {name: round(statistics.median(values), 3) for name, values in shares.items()},
        "while_training_percent": _percent(together, rounds),
        "whole_percent": _percent(whole, rounds),
    }
    result |= measured_with(provenance(seed=1, split_hash=""))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in ("fit_s", "percent", "while_training_percent", "whole_percent")}))


def _percent(seconds: list[float], rounds: list[dict[str, float]]) -> float:
    return round(statistics.median(100 * one / of["fit"] for one, of in zip(seconds, rounds, strict=True)), 3)


if __name__ == "__main__":
    main()
