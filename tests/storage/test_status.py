"""A run's state, seen from another process, after a SIGKILL too."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet18.errors import RunError
from resnet18.storage.status import Status, read_status

CHILD = """
import sys, time
from pathlib import Path
from resnet18.storage.status import Status
status = Status(Path("."))
print("there", flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "provenance.json").write_text("{}")
    return tmp_path


def test_a_killed_run_is_stopped_and_a_living_one_running(run: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], cwd=run, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert read_status(run)["state"] == "running"
        assert read_status(run)["state"] == "running"  # looking does not release it
        child.kill()
    assert (read_status(run)["state"], read_status(run)["reason"]) == ("stopped", "killed")


def test_the_time_of_a_killed_run_counts_to_its_last_row(run: Path) -> None:
    (run / "status.json").write_text('{"state": "running", "reason": "", "seconds": 100, "began": 1000}')
    (run / "metrics.csv").write_text("epoch,step\n")
    os.utime(run / "metrics.csv", (1030, 1030))
    assert read_status(run)["seconds"] == 130


def test_the_times_of_several_starts_add_up(run: Path) -> None:
    first = Status(run)
    first.began -= 50
    first.close("stopped", "SIGTERM")
    assert read_status(run) | {"began": 0} == {"state": "stopped", "reason": "SIGTERM", "seconds": 50.0, "began": 0}
    second = Status(run)
    second.began -= 7
    assert read_status(run)["seconds"] == pytest.approx(50, abs=5)
    second.close("finished")
    assert read_status(run)["seconds"] == pytest.approx(57, abs=0.5)
    assert time.time() - read_status(run)["began"] < 60


def test_a_run_without_it_has_none_and_a_broken_one_is_named(run: Path) -> None:
    assert read_status(run) == {}
    (run / "status.json").write_text("{")
    with pytest.raises(RunError, match=r"status\.json can't be read"):
        read_status(run)
