import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import start

from resnet18.cli import children
from resnet18.cli.children import _failure, train
from resnet18.errors import RunError, UsageError
from resnet18.storage.records import read_json, write_json
from resnet18.storage.status import Status


@pytest.fixture
def group(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "group" / "one", symlinks=True)
    return tmp_path / "group"


def no_child(*arguments: object) -> int:
    raise AssertionError(f"a child was started: {arguments}")


def test_a_finished_run_is_left_out(
    group: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(children, "_run", no_child)
    record = {"command": "test", "given": {}, "flip_tta": False, "test/top1": 0.75}
    (group / "one" / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    assert train(group, "one", ["--no", "option"]).test == {"test/top1": 0.75}
    line = capfd.readouterr().out
    assert line.startswith("one  finished  3 epochs  val/top1 ")
    assert "test/top1 75.00 %" in line


def test_a_run_without_test_images_and_a_diverged_one_are_left_as_they_are(
    group: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(children, "_run", no_child)
    (group / "one.log").write_text("run     group/one\n")
    assert train(group, "one", []).test == {}
    assert "not tested" in capfd.readouterr().out
    write_json(group / "one" / "status.json", {**read_json(group / "one" / "status.json"), "state": "diverged"})
    assert train(group, "one", []).state == "diverged"


def test_a_run_that_another_process_trains_is_left_alone(group: Path) -> None:
    status = Status(group / "one")
    with pytest.raises(RunError, match="one is being trained by another process"):
        train(group, "one", [])
    status.close("stopped")


def test_what_is_killed_is_resumed_once_and_every_new_run_has_an_id_of_its_own_for_wandb(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[tuple[str, str, str | None]]()

    class Killed:
        returncode = -9

        def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
            started.append((command[4], env["WANDB_RUN_GROUP"], env.get("WANDB_RUN_ID")))

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr("subprocess.Popen", Killed)
    write_json(group / "one" / "status.json", {"state": "stopped"})
    for name in ("one", "two"):
        with pytest.raises(RunError, match=rf"{name} failed \(killed by SIGKILL\); the end of .*{name}.log:"):
            train(group, name, ["--config=a.yaml"])
    (*resumed, begun, again) = started
    assert resumed == [("--ckpt_path", group.as_posix(), None)] * 2
    assert begun[:2] == again[:2] == ("--config=a.yaml", group.as_posix())
    assert None is not begun[2] != again[2] is not None


def test_what_a_child_finds_wrong_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("\n$ lightning fit --first\nold\n\n$ lightning fit --second\nthere is no option\ndid you mean it?\n")
    error = _failure("one", 2, log)
    assert isinstance(error, UsageError)
    expected = f"one failed (exit status 2); the end of {log}:\n  there is no option\n  did you mean it?"
    assert str(error) == expected
    log.write_text("\n$ lightning fit\n" + "\n".join(map(str, range(20))))
    error = _failure("one", -9, log)
    assert isinstance(error, RunError)
    first, *last = str(error).splitlines()
    assert first == f"one failed (killed by SIGKILL); the end of {log}:"
    assert last == [f"  {number}" for number in range(12, 20)]


FAKE = """#!/bin/sh
trap 'echo saved; exit 143' TERM
echo begun
while :; do sleep 0.05; done
"""
PARENT = """
import signal, sys
from pathlib import Path
from resnet18.cli.children import train
sys.executable = "./fit"
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup leaves ignored
train(Path("group"), "one", [])
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_child_which_saves_before_the_parent_ends(signum: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "fit").write_text(FAKE)
    (tmp_path / "fit").chmod(0o755)
    parent, log = start([], tmp_path, (sys.executable, "-c", PARENT)), tmp_path / "group" / "one.log"
    while not log.exists() or "begun" not in log.read_text():
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.05)
    parent.send_signal(signum)
    _, err = parent.communicate(timeout=60)
    assert (parent.returncode, err) == (
        128 + signum,
        f"\nstopped by {signum.name}; the same command continues from here\n",
    )
    assert log.read_text().endswith("begun\nsaved\n")
