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
from resnet18.cli.children import train
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


def test_a_finished_run_is_only_tested_and_then_left_out(
    group: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(group, "one", ["--no", "option"])
    assert run.state == "finished"
    assert run.test["test/top1"] > 0.1
    assert "test --ckpt_path" in (group / "one.log").read_text()
    monkeypatch.setattr(children, "_run", no_child)
    assert train(group, "one", []).test == run.test
    first, second = capfd.readouterr().out.splitlines()
    assert first == second
    assert first.startswith("one  finished  3 epochs  val/top1 ")
    assert f"test/top1 {100 * run.test['test/top1']:.2f} %" in first


def test_a_run_without_test_images_and_a_diverged_one_are_left_as_they_are(
    group: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(children, "_run", no_child)
    (group / "one.log").write_text("run     group/one\n")
    assert train(group, "one", []).test == {}
    assert "not tested" in capfd.readouterr().out
    write_json(group / "one" / "status.json", {**read_json(group / "one" / "status.json"), "state": "diverged"})
    assert train(group, "one", []).state == "diverged"


def test_what_the_child_finds_wrong_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "group" / "one" / "checkpoints").mkdir(parents=True)  # left by a run that was killed at its start
    with pytest.raises(UsageError) as caught:
        train(Path("group"), "one", ["--trainer.max_epoch", "2"])
    first, *lines = str(caught.value).splitlines()
    assert first == "one failed (exit status 2); the end of group/one.log:"
    assert len(lines) == 1
    assert "there is no option trainer.max_epoch; did you mean trainer.max_epochs?" in lines[0]
    assert not (tmp_path / "group" / "one").exists()


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
