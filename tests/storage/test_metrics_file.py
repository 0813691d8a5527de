"""``metrics.csv`` after a kill, a power cut, and on a full disk."""

import csv
from pathlib import Path

import pytest

from resnet18.errors import RunError
from resnet18.storage.metrics_file import MetricsFile


def rows(path: Path) -> list[tuple[str, str, str]]:
    return [(row["step"], row["train/loss"], row["val/loss"]) for row in csv.DictReader(path.open())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three rows of training, and one of validation with a column of its own."""
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    for step in range(3):
        first.log_metrics({"epoch": 0, "train/loss": 1.5}, step)
    first.log_metrics({"epoch": 0, "val/loss": 2.0}, 2)
    return path


def test_it_continues_from_the_step_at_which_the_run_resumes(path: Path) -> None:
    MetricsFile(path, resume_step=2).log_metrics({"epoch": 0, "train/loss": 0.5}, 2)
    assert rows(path) == [("0", "1.5", ""), ("1", "1.5", ""), ("2", "0.5", "")]


@pytest.mark.parametrize("torn", ["0,1", "0,1,1.", "0", "0,\n"])
def test_a_torn_row_is_left_out(torn: str, path: Path) -> None:
    path.write_text(path.read_text() + torn)
    MetricsFile(path, resume_step=3).log_metrics({"epoch": 1, "train/loss": 0.5}, 3)
    assert rows(path) == [("0", "1.5", ""), ("1", "1.5", ""), ("2", "1.5", ""), ("2", "", "2"), ("3", "0.5", "")]


def test_rows_are_on_the_disk_before_a_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[str] = []
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: forced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    metrics = MetricsFile(path, resume_step=3)
    metrics.save()
    assert forced == []  # nothing is written yet
    metrics.log_metrics({"epoch": 1, "train/loss": 0.5}, 3)
    metrics.save()
    assert forced == [str(path)]


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.partial").symlink_to("/dev/full")  # every write to it finds no space
    with pytest.raises(RunError, match=r"metrics.csv can't be written: No space left on device"):
        MetricsFile(tmp_path / "metrics.csv").log_metrics({"epoch": 0, "train/loss": 1.5}, 0)
