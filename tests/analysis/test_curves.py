"""The curves of a run, and of others beside it: what is drawn where, for runs of any length."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from run_makers import make_run

from resnet18 import load_run
from resnet18.errors import RunError
from resnet18.report.run_files import read_run
from resnet18.runs import Run

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def data(line: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def test_loss_accuracy_and_learning_rate_are_drawn(trained: Path) -> None:
    before = dict(matplotlib.rcParams)
    loss, accuracy, rate = load_run(trained).plot()
    series = read_run(trained).series
    assert [axes.get_title("left") for axes in (loss, rate)] == ["loss", "learning rate"]
    best = max(value for _, value in series["val/top1"])
    assert accuracy.get_title("left") == f"val/top1, %: best {100 * best:.2f} in epoch 3"
    assert sorted(texts(loss)) == ["train/loss", "val/loss"]
    assert texts(accuracy) == texts(rate) == []
    assert data(loss.lines[0]) == series["train/loss"]
    assert data(loss.lines[1]) == series["val/loss"]
    assert data(accuracy.lines[0]) == [(x, 100 * y) for x, y in series["val/top1"]]
    assert [x for x, _ in series["val/top1"]] == [1, 2, 3]
    assert data(accuracy.lines[1]) == [(3, 100 * best)]
    assert rate.get_xlabel() == "epoch"
    assert rate.get_xlim() == (0, 3)
    assert dict(matplotlib.rcParams) == before  # the user's style is left alone


def test_the_best_epoch_is_marked_in_every_curve_of_the_validation(tmp_path: Path) -> None:
    loss, accuracy, _ = load_run(make_run(tmp_path / "run")).plot()
    assert "in epoch 14" in accuracy.get_title("left")
    assert data(loss.lines[-1])[0][0] == data(accuracy.lines[-1])[0][0] == 14
    by_loss = make_run(tmp_path / "other", best={"monitor": "val/loss", "mode": "min"})
    loss, accuracy, _ = load_run(by_loss).plot()
    assert data(loss.lines[-1])[0][0] == 15
    assert accuracy.get_title("left") == "val/top1, %"


def test_any_metric_can_be_asked_for(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run"))
    axes = run.plot("grad_norm", "val/f1", "lr/backbone")
    assert [one.get_title("left").partition(":")[0] for one in axes] == ["gradient norm", "val/f1", "lr/backbone"]
    with pytest.raises(KeyError, match="val/f2 was not logged; did you mean val/f1"):
        run.plot("val/f2")
    with pytest.raises(KeyError, match="mine was not logged; available: train/loss, "):
        run.plot("mine")


def rated(place: Path, lr: float) -> Run:
    return load_run(make_run(place, model={"optimizer": {"class_path": "SGD", "init_args": {"lr": lr}}}))


def test_runs_beside_each_other_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    first, *others = [rated(tmp_path / str(lr), lr) for lr in (0.1, 0.01, 0.001)]
    loss, accuracy, rate = first.plot(beside=others)
    assert texts(rate) == []
    assert len(texts(first.plot("lr", beside=others)[0])) == 3
    assert sorted(texts(loss)) == sorted(texts(accuracy)) == ["lr=0.001", "lr=0.01", "lr=0.1"]
    assert len({line.get_color() for line in accuracy.lines}) == 3
    boxes = sorted((text.get_window_extent() for text in accuracy.texts), key=lambda box: box.y0)
    assert all(above.y0 >= below.y1 for below, above in pairwise(boxes))  # though the curves end at one point
    (alike,) = first.plot("val/top1", beside=rated(tmp_path / "20261128-231635-5c97", 0.1))
    assert sorted(texts(alike)) == ["0.1", "1635-5c97"]


def test_short_and_broken_runs_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    (run / "metrics.csv").write_text("epoch,step,val/loss,val/top1\n0,4,0.7,0.5\n")
    loss, accuracy = load_run(run).plot()
    assert data(loss.lines[0]) == [(1, 0.7)]
    assert loss.lines[0].get_marker() == "o"
    assert accuracy.get_xlim() == (0, 1)
    (run / "metrics.csv").write_text("epoch,step,train/loss\n0,4,nan\n0,5,inf\n1,6,nan\n")
    (loss,) = load_run(run).plot()
    assert [line for line in loss.lines if any(math.isfinite(y) for _, y in data(line))] == []
    (run / "metrics.csv").write_text("epoch,step,train/loss\n0,4,2.5\n0,9,4.5\n1,1")  # torn by a kill
    (loss,) = load_run(run).plot()
    assert data(loss.lines[0]) == [(0.5, 2.5), (1.0, 4.5)]
    assert loss.get_ylim()[0] == 0 or loss.get_ylim()[0] > 0
    for content in ("", "epoch,step\n"):
        (run / "metrics.csv").write_text(content)
        with pytest.raises(RunError, match="nothing was logged yet"):
            load_run(run).plot()


def test_names_with_dollars_are_drawn_letter_by_letter(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").write_text("epoch,step,val/$a_b$,val/$x\n0,4,0.7,0.5\n1,9,0.7,0.5\n")
    axes = load_run(run).plot("val/$a_b$", "val/$x")
    axes[0].figure.canvas.draw()
    assert axes[0].get_title("left") == r"val/\$a_b\$"
