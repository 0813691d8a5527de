"""Processes killed with SIGKILL, in a step, a validation and the writing of a checkpoint, and resumed."""

import sys
from pathlib import Path

import pytest
from killed_runs import Way, differences, kill, prepare, resume_arguments, start

PLAIN, ALL = Way("32-true", 0.0, "resident"), Way("bf16-mixed", 0.9, "streamed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    prepare(place)
    return place


@pytest.mark.parametrize(
    ("way", "moment", "step"),
    [(PLAIN, "step", 40), (PLAIN, "writing", 50), (ALL, "validation", 30)],
    ids=["in a step", "in the writing of a checkpoint", "in a validation"],
)
def test_a_killed_run_ends_as_the_unbroken_one(
    way: Way, moment: str, step: int, lightning, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    if not (place / way.name).exists():
        done = lightning(*way.options(), "--run_dir", way.name)
        assert done.status == 0, done.err
    process = start([*way.options(), "--run_dir", f"killed in {moment}"], place, SLOWLY="1")
    assert kill(process, place, moment, step, 0.06 if moment == "writing" else 0.01) is not None
    assert process.returncode == -9
    partial = place / f"killed in {moment}" / "checkpoints" / ".last.ckpt.partial"
    assert partial.exists() or moment != "writing"
    arguments = resume_arguments(place / f"killed in {moment}")
    monkeypatch.delitem(sys.modules, "killed", raising=False)
    done = lightning(*arguments)
    assert done.status == 0, done.err
    assert differences(place / way.name, place / f"killed in {moment}") == []
    assert not partial.exists()
