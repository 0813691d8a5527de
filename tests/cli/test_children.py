import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DROPOUT_NET, DROPOUT_RUN, start

from resnet18.cli import children
from resnet18.cli.children import failure, train
from resnet18.errors import RunError, UsageError
from resnet18.storage.overview import overview
from resnet18.storage.records import read_json, write_json

PARENT = """
import sys
from pathlib import Path
from resnet18.cli.children import train
print(train(Path("group"), "one", sys.argv[1:]).state)
"""
OPTIONS = (*DROPOUT_RUN[1:], "--last.every_n_steps", "5")


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


def test_every_new_run_has_an_id_of_its_own_for_wandb(
    group: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started = list[dict[str, str]]()
    monkeypatch.setattr(children, "_run", lambda arguments, log, name, environment: started.append(environment) or 1)
    write_json(group / "one" / "status.json", {"state": "stopped"})
    (group / "one.log").write_text("$ fit\n")
    shutil.copy(group / "one.log", group / "two.log")
    for name in ("one", "two", "two"):
        with pytest.raises(RunError, match=f"{name} failed"):
            train(group, name, [], {"WANDB_RUN_GROUP": "group"})
    resumed, first, second = started
    assert resumed == {"WANDB_RUN_GROUP": "group"}
    assert first["WANDB_RUN_ID"] != second["WANDB_RUN_ID"]


def test_what_a_child_finds_wrong_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("\n$ lightning fit --first\nold\n\n$ lightning fit --second\nthere is no option\ndid you mean it?\n")
    error = failure("one", 2, log)
    assert isinstance(error, UsageError)
    expected = f"one failed (exit status 2); the end of {log}:\n  there is no option\n  did you mean it?"
    assert str(error) == expected
    log.write_text("\n$ lightning fit\n" + "\n".join(map(str, range(20))))
    error = failure("one", -9, log)
    assert isinstance(error, RunError)
    first, *last = str(error).splitlines()
    assert first == f"one failed (killed by SIGKILL); the end of {log}:"
    assert last == [f"  {number}" for number in range(12, 20)]


def test_a_signal_reaches_the_child_and_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    run, log = tmp_path / "group" / "one", tmp_path / "group" / "one.log"
    command = [*OPTIONS, "--trainer.max_epochs", "400"]
    parent = start(command, tmp_path, (sys.executable, "-c", PARENT), PYTHONPATH=os.pathsep.join(sys.path))
    wait_for(run / "checkpoints" / "last.ckpt", parent)
    with pytest.raises(RunError, match="is being trained by another process"):
        train(Path("group"), "one", [])
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 143
    assert overview(run).status["reason"] == "SIGTERM"
    assert "resume with: " in log.read_text()
    stopped = overview(run).epochs

    parent = start(command, tmp_path, (sys.executable, "-c", PARENT), PYTHONPATH=os.pathsep.join(sys.path))
    while overview(run).epochs <= stopped:
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.1)
    child = int(subprocess.check_output(["pgrep", "-P", str(parent.pid)]))
    os.kill(child, signal.SIGKILL)
    _, err = parent.communicate(timeout=60)
    assert "one failed (killed by SIGKILL); the end of group/one.log" in err
    assert f"fit --ckpt_path {Path('group', 'one')}" in log.read_text()
    assert overview(run).state == "stopped"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
