"""What a wrong configuration costs who reads the answer: 100 of them, run by the program.

Each is one of the shipped configurations with one fault (see :mod:`mutations`), given to ``lightning fit`` in an empty
directory. It has to be refused with exit status 2, in ten lines or fewer, without a traceback, by a message that names
the file and the key, and nothing may be left behind. All run in one process, one after the other.

    python benchmarks/mutated_configs.py        # half a minute; writes benchmarks/results/mutated_configs.json
"""

import argparse
import collections
import contextlib
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mutations import Mutation, mutations
from PIL import Image

from resnet18.__main__ import main as program
from resnet18.storage.provenance import measured_with, provenance

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutated_configs.json"
NAME = "mutated.yaml"
LINES = 10


class Answer(NamedTuple):
    """What the program gave: its exit status, what it wrote to stderr, and what it left."""

    status: int
    err: str
    left: list[str]


def lay_out(mutation: Mutation, place: Path) -> list[str]:
    """Writes a mutated configuration, beside folders of images that the shipped ones name; gives the command line."""
    for folder in ("images/train", "imagenet/train"):
        for label in ("cat", "dog"):
            (place / folder / label).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8)).save(place / folder / label / f"{number}.png")
    (place / NAME).write_bytes(mutation.content)
    below = ["--config", str(ROOT / mutation.below)] if mutation.below else []
    return ["fit", *below, "--config", NAME]


def faults(mutation: Mutation, answer: Answer) -> list[str]:
    """What is wrong with the program's answer to a mutated configuration; nothing, if it is as it should be."""
    lines = answer.err.splitlines()
    wrong = {
        f"exit status {answer.status}": answer.status != 2,
        f"{len(lines)} lines": not 0 < len(lines) <= LINES,
        "a traceback": "Traceback (most recent call last)" in answer.err,
        f"left {answer.left}": bool(answer.left),
        "does not name the file": NAME not in answer.err,
        "does not name the key": not named(mutation.key, answer.err),
        f"does not offer {mutation.meant}": not re.search(rf"did you mean ([\w.]*\.)?{mutation.meant}\?", answer.err)
        and bool(mutation.meant),
        "blames the file below": bool(mutation.below) and Path(mutation.below or "").name in answer.err,
    }
    return [fault for fault, found in wrong.items() if found]


def named(key: str, text: str) -> bool:
    """Whether a message names a key, or the list that holds it: its place there may be left out."""
    return re.sub(r"\[\d+\]", "", key) in re.sub(r"\[\d+\]", "", text)


def answer_to(mutation: Mutation) -> Answer:
    """Runs the program in this process, in a directory of its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as err:
        place = Path(name)
        arguments = lay_out(mutation, place)
        there = {path.relative_to(place) for path in place.rglob("*")}
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        os.chdir(place)
        try:
            with _streams_into(err.fileno()):
                try:
                    status = program(arguments)
                except BaseException:
                    traceback.print_exc()
                    status = 1
        finally:
            os.chdir(before)
        left = sorted(str(path) for path in {path.relative_to(place) for path in place.rglob("*")} - there)
        err.seek(0)
        return Answer(status, err.read().decode(errors="replace"), left)


@contextlib.contextmanager
def _streams_into(err: int) -> Iterator[None]:
    """Standard error goes into a file and standard output nowhere, whoever writes to them."""
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(err, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    origin = measured_with(provenance(options.seed, split_hash=""))
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as fonts:
        os.environ.update(WANDB_MODE="offline", MPLCONFIGDIR=fonts)
        sys.argv = ["lightning"]
        for mutation in mutations(options.count, options.seed):
            answer = answer_to(mutation)
            cases.append(
                {
                    **{name: getattr(mutation, name) for name in ("kind", "source", "below", "key", "change")},
                    "status": answer.status,
                    "lines": len(answer.err.splitlines()),
                    "left": answer.left,
                    "faults": faults(mutation, answer),
                    "message": answer.err.partition("\n")[0].replace(f"{ROOT}/", ""),
                }
            )
    right = [case for case in cases if not case["faults"]]
    kinds = collections.Counter(case["kind"] for case in cases)
    right_kinds = collections.Counter(case["kind"] for case in right)
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
    for kind, count in kinds.items():
        print(f"{kind:<12} {right_kinds[kind]:>3} of {count:>3}")
    for case in cases:
        if case["faults"]:
            print(f"\n{case['source']}: {case['key']} ({case['kind']}: {case['change']}): {', '.join(case['faults'])}")
            print(case["message"])
    print(f"{len(right)} of {len(cases)} refused as they should be, in {result['most_lines']} lines at most")
    sys.exit(len(right) < len(cases))


if __name__ == "__main__":
    main()
