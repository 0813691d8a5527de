"""Runs killed at random moments and resumed: does each end as the run that nobody touched?

Every trial trains a small network for four epochs by ``lightning fit``, kills the process with SIGKILL once or twice
(in a step, inside a validation, inside the writing of a checkpoint), resumes it with ``lightning fit --ckpt_path``, and
then compares all that the run left with the unbroken run's, bit for bit: weights, averages, optimizer, schedule,
counters, callbacks, best checkpoint, and every row of ``metrics.csv``. Trials take turns in float32 and bf16, with and
without averaged weights, with the resident feed and the one that two workers stream.

    python benchmarks/kill_and_resume.py       # 20 trials, 10 minutes; writes benchmarks/results/kill_and_resume.json
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from killed_runs import EACH, Way, differences, kill, prepare, resume_arguments, start  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "kill_and_resume.json"
MOMENTS = ("step", "validation", "writing")
STEPS = 4 * (10 * EACH * 9 // 10 // 16)
WAYS = [Way(*way) for way in itertools.product(("32-true", "bf16-mixed"), (0.0, 0.9), ("resident", "streamed"))]


def finish(arguments: list[str], place: Path) -> None:
    process = start(arguments, place)
    shown, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{arguments}\n{shown}")


def trial(number: int, way: Way, place: Path) -> dict[str, Any]:
    """One run, killed and resumed."""
    chance = random.Random(number)
    run, kills = place / f"trial{number}", []
    arguments = [*way.options(), "--run_dir", run.name]
    for attempt in range(chance.choice((1, 2))):
        moment = MOMENTS[(number + attempt) % len(MOMENTS)]
        step = chance.randrange(1, STEPS - 8) if not kills else chance.randrange(STEPS // 2, STEPS - 8)
        process = start(arguments, place, SLOWLY="1")
        where = kill(process, place, moment, step, chance.uniform(0, 0.03 if moment == "step" else 0.25))
        kills.append({"aimed_at": f"{moment} from step {step}", "hit": where})
        if where is None:
            break
        arguments = resume_arguments(run) or arguments
    finish(arguments, place)
    return {"trial": number, **way._asdict(), "kills": kills, "differences": differences(place / way.name, run)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    trials = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        prepare(place)
        for way in WAYS[: options.trials]:
            finish([*way.options(), "--run_dir", way.name], place)
        for number in range(options.trials):
            trials.append(trial(number, WAYS[number % len(WAYS)], place))
            print(trials[-1], flush=True)
    from resnet18.storage.provenance import measured_with, provenance

    killed = [kill for one in trials for kill in one["kills"] if kill["hit"]]
    result = {
        "command": f"python benchmarks/kill_and_resume.py --trials {options.trials}",
        "bit_equal": sum(not one["differences"] for one in trials),
        "trials": len(trials),
        "kills": {moment: sum(kill["hit"].startswith(moment) for kill in killed) for moment in MOMENTS},
        "each": trials,
        **measured_with(provenance(seed=1, split_hash="")),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['bit_equal']} of {result['trials']} equal to the last bit; killed in {result['kills']}")


if __name__ == "__main__":
    main()
