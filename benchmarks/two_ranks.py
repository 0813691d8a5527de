"""Two processes with a core each against one process with two, on the same images in the same steps.

Both are `lightning fit --config configs/digits.yaml` for some epochs, started in turns: two ranks (DDP over gloo) in
batches of half the size, one thread each, and one rank with two threads. The speed of a run is the median of what
metrics.csv holds of ``images_per_s`` after the first epoch; validation is left out of it. Then one checkpoint is scored
by both, on the validation and the test images; the ranks' shares are of unequal length, and no image may count twice.

    python benchmarks/two_ranks.py              # about 5 minutes; writes benchmarks/results/two_ranks.json

On CPUs gloo is there for tests; a GPU each over NCCL is what several ranks are for, and not measured here.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from resnet18.storage.provenance import measured_with
from resnet18.storage.records import read_evaluations, read_metrics

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "digits.yaml"
RESULT = ROOT / "benchmarks" / "results" / "two_ranks.json"
BATCH = 64  # the configuration's, over all ranks
RANKS = {
    "one": ("--trainer.devices", "1", "--trainer.strategy", "auto"),
    "two": ("--trainer.devices", "2", "--trainer.strategy", "ddp"),
}
COUNTED = ("val/top1", "val/top5", "test/top1", "test/top5")  # shares of images, to be equal to the last one


def lightning(ranks: str, *arguments: object, cwd: str) -> str:
    threads = {"OMP_NUM_THREADS": "2" if ranks == "one" else "1"}
    done = subprocess.run(
        [sys.executable, "-m", "resnet18", *map(str, arguments), "--trainer.accelerator", "cpu", *RANKS[ranks]],
        cwd=cwd,
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def images_per_s(ranks: str, run: str, epochs: int, options: list[str], cwd: str) -> float:
    batch = BATCH if ranks == "one" else BATCH // 2
    lightning(
        ranks,
        *("fit", "--config", CONFIG, "--data.batch_size", batch, "--trainer.max_epochs", epochs, "--run_dir", run),
        *("--trainer.logger", "false", "--trainer.log_every_n_steps", "5", *options),
        cwd=cwd,
    )
    rows = read_metrics(Path(cwd, run))
    return statistics.median(row["images_per_s"] for row in rows if "images_per_s" in row and row["epoch"] > 0)


def scores(ranks: str, run: str, cwd: str) -> dict[str, float]:
    """What both commands say of a run's best checkpoint; the batches are such that one rank has one more of them."""
    shown = lightning(ranks, "validate", "--ckpt_path", run, "--data.eval_batch_size", 71, cwd=cwd)
    words = next(line for line in shown.splitlines() if line.startswith("val/")).split()
    found = {name: float(value) for name, value in itertools.pairwise(words) if name.startswith("val/")}
    lightning(ranks, "test", "--ckpt_path", run, "--data.eval_batch_size", 179, cwd=cwd)
    tested = read_evaluations(Path(cwd, run))[-1]
    return found | {name: value for name, value in tested.items() if name.startswith("test/")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of a run; the first is not counted")
    parser.add_argument("--width", type=int, default=64, help="of the network; 64 is ResNet-18's")
    options = parser.parse_args()
    speed: dict[str, list[float]] = {"one": [], "two": []}
    given = ["--model.backbone.width", str(options.width)]
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            for ranks, values in speed.items():
                values.append(images_per_s(ranks, f"{ranks}-{number}", options.epochs, given, place))
            print({ranks: round(values[-1], 1) for ranks, values in speed.items()}, "images/s", flush=True)
        both = {ranks: scores(ranks, "two-0", place) for ranks in RANKS}
        origin = json.loads(Path(place, "two-0", "provenance.json").read_text())
    ratios = [two / one for one, two in zip(speed["one"], speed["two"], strict=True)]
    equal = all(both["one"][name] == both["two"][name] for name in COUNTED)
    result: dict[str, Any] = {
        "command": f"python benchmarks/two_ranks.py --rounds {options.rounds} --epochs {options.epochs}"
        f" --width {options.width}",
        "config": f"configs/{CONFIG.name}",
        "batch_size": f"{BATCH} over all ranks",
        **{f"{ranks}_images_per_s": round(statistics.median(values), 1) for ranks, values in speed.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_rounds": [round(ratio, 3) for ratio in ratios],
        **{f"{ranks}_images_per_s_rounds": [round(value, 1) for value in values] for ranks, values in speed.items()},
        "scores_of_one_checkpoint": both,
        "scores_equal": equal,
        "split_hash": origin["split_hash"],
        **measured_with(origin),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['ratio']}× one rank's speed; scores equal: {equal}; stored in {os.path.relpath(RESULT)}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
