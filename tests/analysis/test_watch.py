"""Watching a run that grows: lines in a terminal, one picture in a notebook, until the run has ended."""

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython
import IPython.display
import matplotlib
import matplotlib.pyplot as plt
import pytest
from PIL import Image
from run_makers import make_run

from resnet18 import load_run
from resnet18.analysis.watch import described
from resnet18.errors import RunError
from resnet18.storage.status import Status

matplotlib.use("Agg")
HEAD = "epoch,step,train/loss,val/loss,val/top1\n"


def row(epoch: int, validated: bool = True) -> str:
    step = 10 * epoch + 9
    return f"{epoch},{step},{2 / (epoch + 1):g},,\n" + (
        f"{epoch},{step},,{1 / (epoch + 1):g},{epoch / 4:g}\n" * validated
    )


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run that trains, and takes the next step whenever the watching sleeps."""

    def make(*steps: Callable[[Path], None]) -> Path:
        run, left = make_run(tmp_path / "run", epochs=3), list(steps)
        (run / "metrics.csv").unlink()
        monkeypatch.setattr(time, "sleep", lambda seconds: left.pop(0)(run))
        return run

    return make


def add(content: str) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        path = run / "metrics.csv"
        path.write_text((path.read_text() if path.exists() else HEAD) + content)

    return write


def test_a_terminal_gets_a_line_each_epoch(growing: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        add(row(0, False)),
        add(row(0)),
        add(row(1) + row(2, False)),
        lambda run: status.close("stopped", "SIGINT"),
    ]
    run = growing(*steps)
    status = Status(run)
    shown = list[str]()
    load_run(run).watch()
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "epoch 1/3  train/loss 2.0000  val/loss 1.0000  val/top1 0.00 %",
        "epoch 2/3  train/loss 1.0000  val/loss 0.5000  val/top1 25.00 %",
        "epoch 3/3  train/loss 0.6667",
        "digits/run: stopped (SIGINT), epoch 3 of 3, best val/top1 25.00 % in epoch 2",
    ]
    load_run(run).watch()  # once more, of a run that has ended
    assert capsys.readouterr().out.splitlines() == shown


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What a notebook is told to show."""
    told: list[tuple[str, dict[str, Any]]] = []

    def display(content: Any, **how: Any) -> Any:
        told.append(("new", content))
        return SimpleNamespace(update=lambda content, **how: told.append(("update", content)))

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=1))
    monkeypatch.setattr(IPython.display, "display", display)
    return told


def test_a_notebooks_picture_is_redrawn_in_place(
    growing: Callable[..., Path], displayed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [add(row(0)), lambda run: None, add(row(1)), lambda run: status.close("diverged", "the loss is nan")]
    run = growing(*steps)
    status = Status(run)
    assert load_run(run).watch() is None
    assert [kind for kind, _ in displayed] == ["new", "update", "update", "update"]  # nothing for nothing new
    assert [content["text/plain"] for _, content in displayed] == [
        "digits/run: running, epoch 0 of 3",
        "digits/run: running, epoch 1 of 3, best val/top1 0.00 % in epoch 1",
        "digits/run: running, epoch 2 of 3, best val/top1 25.00 % in epoch 2",
        "digits/run: diverged (the loss is nan), epoch 2 of 3, best val/top1 25.00 % in epoch 2",
    ]
    assert "image/png" not in displayed[0][1]
    with Image.open(io.BytesIO(base64.b64decode(displayed[-1][1]["image/png"]))) as picture:
        assert picture.width > 1000
    assert plt.get_fignums() == []
    assert capsys.readouterr().out == ""


def test_an_interrupt_ends_the_watching_and_not_the_run(growing: Callable[..., Path], displayed: list[Any]) -> None:
    def interrupt(run: Path) -> None:
        raise KeyboardInterrupt

    run = growing(add(row(0)), interrupt)
    status = Status(run)
    load_run(run).watch()
    assert displayed[-1][1]["text/plain"].startswith("digits/run: running, epoch 1 of 3")
    status.close("finished")


def test_a_run_without_a_status_yet_is_waited_for(
    growing: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    statuses: list[Status] = []
    run = growing(lambda run: statuses.append(Status(run)), lambda run: statuses[0].close("failed", "why"))
    (run / "status.json").unlink()
    load_run(run).watch()
    assert capsys.readouterr().out == "digits/run: failed (why), epoch 0 of 3\n"


def test_a_killed_run_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", epochs=3)
    (run / "status.json").write_text('{"state": "running", "reason": "", "seconds": 1, "began": 1}')
    load_run(run).watch()
    assert "digits/run: stopped (killed), epoch 3 of 3" in capsys.readouterr().out


def test_what_is_no_run_is_an_error(tmp_path: Path, trained: Path) -> None:
    for place in (tmp_path, tmp_path / "latest"):
        with pytest.raises(RunError):
            load_run(place).watch()
    (tmp_path / "latest").symlink_to("nowhere")
    with pytest.raises(RunError, match="there is no checkpoint or run"):
        load_run(tmp_path / "latest")
    (tmp_path / "alone.ckpt").write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    for what in (lambda run: run.watch(), lambda run: run.plot()):
        with pytest.raises(RunError, match="is a checkpoint on its own: only a run's directory has curves"):
            what(load_run(tmp_path / "alone.ckpt"))


def test_a_run_is_described_in_three_lines(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert described(run)[1:] == ["not tested", "ResNet, 0 parameters"]
    line = '{"command": "test", "step": 9, "flip_tta": false, "given": {}, "test/top1": 0.9, "test/loss": 0.25}\n'
    (run / "evaluations.jsonl").write_text(line)
    assert described(run)[1] == "test/top1 90.00 %  test/loss 0.2500"
