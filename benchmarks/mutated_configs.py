"""What a wrong configuration costs who reads the answer: 100 of them, run by the program.

Each is one of the shipped configurations with one fault (see :mod:`mutations`), given to ``lightning fit`` in an empty
directory. It has to be refused with exit status 2, in ten lines or fewer, without a traceback, by a message that names
the file and the key, and nothing may be left behind. All run in one process, one after the other.

    python benchmarks/mutated_configs.py        # half a minute; writes benchmarks/results/mutated_configs.json
"""

import argparse
import collections
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from mutations import Mutation, mutations
from PIL import Image

from resnet18.__main__ import main as program
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutated_configs.json"
NAME, LINES = "mutated.yaml", 10


class Answer(NamedTuple):
    """What the program gave: its exit status, what it wrote to stderr, and what it left."""

    status: int
    err: str
    left: list[str]


def faults(mutation: Mutation, answer: Answer) -> list[str]:
    """What is wrong with the program's answer to a mutated configuration; nothing, if it is as it should be."""
    lines, below = answer.err.splitlines(), Path(mutation.below or "").name
    # A list's key may stand for that of an entry.
    key, text = (re.sub(r"\[\d+\]", "", words) for words in (mutation.key, answer.err))
    offered = not mutation.meant or re.search(rf"did you mean ([\w.]*\.)?{mutation.meant}\?", answer.err)
    wrong = {
        f"exit status {answer.status}": answer.status != 2,
        f"{len(lines)} lines": not 0 < len(lines) <= LINES,
        "a traceback": "Traceback (most recent call last)" in answer.err,
        f"left {answer.left}": bool(answer.left),
        "does not name the file": NAME not in answer.err,
        "does not name the key": key not in text,
        f"does not offer {mutation.meant}": not offered,
        "blames the file below": bool(below) and below in answer.err,
    }
    return [fault for fault, found in wrong.items() if found]


def answer_to(mutation: Mutation) -> Answer:
    """Runs the program in this process, in a directory of its own, beside images that the shipped ones name."""
    below = ["--config", str(ROOT / mutation.below)] if mutation.below else []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name), patch.object(sys, "argv", ["lightning"]):
        for folder in ("images/train", "imagenet/train"):
            for label in ("cat", "dog"):
                Path(folder, label).mkdir(parents=True)
                for number in range(4):
                    Image.new("RGB", (8, 8)).save(Path(folder, label, f"{number}.png"))
        Path(NAME).write_text(mutation.content)
        there, err = set(Path().rglob("*")), io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = program(["fit", *below, "--config", NAME])
            except BaseException:
                traceback.print_exc()
                status = 1
        return Answer(status, err.getvalue(), sorted(str(path) for path in set(Path().rglob("*")) - there))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    origin = measured_with(provenance(options.seed, split_hash=""))
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as caches:
        os.environ.update(WANDB_MODE="offline", MPLCONFIGDIR=caches, XDG_CACHE_HOME=caches)
        for mutation in mutations(options.count, options.seed):
            answer = answer_to(mutation)
            case: dict[str, Any] = {
                **{name: getattr(mutation, name) for name in ("kind", "source", "below", "key", "change")},
                "status": answer.status,
                "lines": len(answer.err.splitlines()),
                "left": answer.left,
                "faults": faults(mutation, answer),
                "message": answer.err.partition("\n")[0].replace(f"{ROOT}/", ""),
            }
            cases.append(case)
            if case["faults"]:
                print(f"{case['source']}: {case['key']} ({case['change']}): {', '.join(case['faults'])}")
                print(f"{case['message']}\n")
    right = [case["kind"] for case in cases if not case["faults"]]
    kinds, right_kinds = collections.Counter(case["kind"] for case in cases), collections.Counter(right)
    result = {
        "command": f"python benchmarks/mutated_configs.py --count {options.count} --seed {options.seed}",
        "right": len(right),
        "mutations": len(cases),
        "right_by_kind": {kind: f"{right_kinds[kind]} of {count}" for kind, count in kinds.items()},
        "most_lines": max(case["lines"] for case in cases),
        "hold": {"right": len(cases), "lines_at_most": LINES},
        "each": cases,
        **origin,
    }
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"{len(right)} of {len(cases)} refused as they should be, in {result['most_lines']} lines at most")
    sys.exit(len(right) < len(cases))


if __name__ == "__main__":
    main()
