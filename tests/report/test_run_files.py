"""What is read of a run's directory, whole, half written or strange."""

import base64
import io
import json
import math
from pathlib import Path

import pytest
from PIL import Image
from run_makers import SERIES, make_run, photograph

from resnet18.errors import RunError
from resnet18.report.run_files import data_uri, read_run


def test_a_run_is_read_whole(trained: Path) -> None:
    run = read_run(trained)
    assert run.epochs == 3
    assert [x for x, _ in run.series["val/loss"]] == [1, 2, 3]
    assert [x for x, _ in run.series["train/loss"]] == [0.5, 1, 1.5, 2, 2.5, 3]
    assert run.best == run.val["epoch"] + 1
    assert run.problems == []


def test_an_epoch_that_was_cut_short_is_as_long_as_the_others(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=3)
    lines = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(lines[:-2]) + "\n")  # ends at the middle of the last epoch
    assert [x for x, _ in read_run(run).series["lr"]] == [0.5, 1, 1.5, 2, 2.5]
    assert read_run(run).epochs == 3


def test_rows_that_a_kill_has_torn_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=3)
    with (run / "metrics.csv").open("a") as file:
        file.write("3,31,0.5\nnan,32" + "," * len(SERIES) + "\nx\n4,4")
    found = read_run(run)
    assert found.epochs == 3
    assert any("4 of its rows can't be read" in problem for problem in found.problems)


def test_values_that_are_not_finite_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=3)
    (run / "metrics.csv").write_text("epoch,step,train/loss\n0,9,nan\n1,19,inf\n")
    (first, second) = read_run(run).series["train/loss"]
    assert math.isnan(first[1])
    assert second == (2, math.inf)


@pytest.mark.parametrize("content", ["", "epoch,step\n", "step,train/loss\n1,2\n", "\0\0"])
def test_metrics_may_be_missing_empty_or_of_another_shape(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").write_text(content)
    assert read_run(run).epochs == 0


def test_broken_files_are_named_and_the_others_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "provenance.json").write_text("{")
    (run / "evaluation-val.json").write_text('{"version": 2}')
    (run.parent / "seeds.json").write_text("[]")
    found = read_run(run)
    assert len(found.problems) == 3
    assert (found.val, found.seeds, found.seen.provenance) == ({}, {}, {})
    assert found.test["images"] == 100


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no config.yaml"):
        read_run(tmp_path)


def test_a_large_picture_is_made_smaller_and_a_small_one_kept(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(photograph(0))
    start, _, content = (data_uri(tmp_path, "large.png") or "").partition(",")
    assert start == "data:image/jpeg;base64"
    assert len(content) < len(photograph(0)) / 2
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (128, 128)
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    assert data_uri(tmp_path, "small.png") == (
        "data:image/png;base64," + base64.b64encode((tmp_path / "small.png").read_bytes()).decode()
    )


def test_only_pictures_of_the_run_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "other.png").write_bytes(photograph(0))
    (run / "link.png").symlink_to(tmp_path / "other.png")
    (run / "large.svg").write_text("<svg>" + 9000 * " ")
    for name in ("../other.png", str(tmp_path / "other.png"), "link.png", "config.yaml", "large.svg", "nowhere.png"):
        assert data_uri(run, name) is None, name
    assert json.loads((run / "evaluation-val.json").read_text())["mistakes"]
