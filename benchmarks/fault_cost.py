"""What it costs that a run survives: checkpoints, and looking at every step for signals and for a loss gone wrong.

The digits recipe is trained as shipped and with all of this taken out, in turns, in one process. Beside the ratio of
their times, which on a shared machine says little about one per cent, the time is added up that the training loop
spends inside the callbacks concerned; the files themselves are written by a thread beside it.

    python benchmarks/fault_cost.py         # about 4 minutes; writes benchmarks/results/fault_cost.json
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fault_cost.json"
ROUNDS, EPOCHS = 7, 6
FIT = ["--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.logger", "false"]


def timed(hook: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return hook(*arguments, **options)
        finally:
            spent.append(time.perf_counter() - began)

    return call


def train(guarded: bool) -> dict[str, float]:
    """One run: seconds from the first step to the end of training, and of these within the callbacks concerned."""
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import Checkpoint

    from resnet18.cli.fitting import Fit
    from resnet18.engine.divergence import FiniteLoss
    from resnet18.engine.stopping import GracefulStop

    class Clock(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.took = time.perf_counter() - self.began

    clock, spent, saving = Clock(), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        program = Fit("fit", [*FIT, "--trainer.max_epochs", str(EPOCHS), "--run_dir", "run"])
        kinds = (FiniteLoss, GracefulStop, Checkpoint)
        callbacks: list[Callback] = program.trainer.callbacks  # type: ignore[attr-defined]
        for callback in [one for one in callbacks if isinstance(one, kinds)]:
            if not guarded:
                callbacks.remove(callback)
                continue
            for name in [name for name in dir(Callback) if name.startswith("on_")]:
                into = spent if isinstance(callback, FiniteLoss | GracefulStop) else saving
                setattr(callback, name, timed(getattr(callback, name), into))
        callbacks.append(clock)  # behind the last of them
        program.start()
        os.chdir(ROOT)
    steps = program.trainer.global_step
    return {"seconds": clock.took, "looking": sum(spent), "saving": sum(saving), "steps": steps}


def main() -> None:
    from resnet18.cli.notices import filter_notices
    from resnet18.storage.provenance import measured_with, provenance

    filter_notices()
    train(guarded=True)  # what is slow once only
    rounds = [(train(guarded=False), train(guarded=True)) for _ in range(ROUNDS)]
    with_all = [guarded for _, guarded in rounds]
    steps = with_all[0]["steps"]
    result = {
        "command": "python benchmarks/fault_cost.py",
        "rounds": ROUNDS,
        "steps": steps,
        "step_ms": round(1000 * statistics.median(one["seconds"] for one in with_all) / steps, 1),
        "looking_ms_a_step": round(1000 * statistics.median(one["looking"] for one in with_all) / steps, 3),
        "looking_share": round(statistics.median(one["looking"] / one["seconds"] for one in with_all), 5),
        "saving_share": round(statistics.median(one["saving"] / one["seconds"] for one in with_all), 5),
        "time_over_unguarded": round(statistics.median(b["seconds"] / a["seconds"] for a, b in rounds), 4),
        "time_over_unguarded_rounds": [round(b["seconds"] / a["seconds"], 4) for a, b in rounds],
        **measured_with(provenance(seed=1, split_hash="")),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        if not isinstance(value, dict):
            print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
