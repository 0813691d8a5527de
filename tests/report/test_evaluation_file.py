"""Counting what an evaluation found, and its file."""

from pathlib import Path

import numpy
import pytest

from resnet18.errors import RunError
from resnet18.report.evaluation_file import counts, write_evaluation
from resnet18.storage.records import read_evaluation


def test_counts_of_five_images_by_hand() -> None:
    true, predicted = numpy.array([0, 0, 1, 2, 2]), numpy.array([0, 1, 1, 2, 2])
    found = counts(true, predicted, numpy.array([0.9, 0.6, 1.0, 0.62, 0.64]), ["a", "b", "c"])
    assert found["confusion"] == [[0, 0, 1], [0, 1, 1], [1, 1, 1], [2, 2, 2]]
    bins = found["calibration"]["bins"]
    assert len(bins) == 15
    assert bins[8] == [1, 0.6, 0.0]  # up to 9/15
    assert bins[9] == [2, 0.63, 1.0]
    assert bins[13] == [1, 0.9, 1.0]
    assert bins[14] == [1, 1.0, 1.0]
    assert found["calibration"]["error"] == pytest.approx((0.6 + 2 * 0.37 + 0.1 + 0) / 5)


def test_a_new_file_takes_the_earlier_ones_pictures_with_it(tmp_path: Path) -> None:
    found = {"step": 1, "confusion": [], "scores": {}}
    write_evaluation(tmp_path, "val", found, [({"image": "a"}, b"1", "png"), ({"image": "b"}, b"2", "png")])
    write_evaluation(tmp_path, "test", found, [({"image": "t"}, b"3", "jpeg")])
    write_evaluation(tmp_path, "val", {**found, "step": 2}, [({"image": "c"}, b"4", "png")])
    names = {path.name: path.read_bytes() for path in (tmp_path / "evaluation").iterdir()}
    assert names == {"val-2-00.png": b"4", "test-1-00.jpeg": b"3"}
    read = read_evaluation(tmp_path, "val")
    assert read is not None
    assert read["mistakes"] == [{"image": "c", "picture": "evaluation/val-2-00.png"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "evaluation-val.json can't be read"), ("[]", "it holds no keys"), ('{"version": 9}', "is of version 9")],
)
def test_a_file_that_cant_be_read_is_named_and_can_be_replaced(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "evaluation-val.json").write_text(content)
    with pytest.raises(RunError, match=message):
        read_evaluation(tmp_path, "val")
    write_evaluation(tmp_path, "val", {"scores": {"val/top1": 0.5}}, ())
    read = read_evaluation(tmp_path, "val")
    assert read is not None
    assert read["scores"] == {"val/top1": 0.5}


def test_without_a_file_there_is_no_evaluation(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path, "test") is None
