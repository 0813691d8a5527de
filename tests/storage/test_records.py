"""The files of a run's directory, written once or extended later."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resnet18.errors import RunError, UsageError
from resnet18.storage.records import append_evaluation, create_run, read_evaluations, read_metrics

CREATED: dict[str, Any] = {"config": {"width": 8}, "provenance": {"seed": 1}, "sources": {"my/net.py": b"# mine"}}


def test_a_run_is_written_and_latest_points_to_the_newest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_run(tmp_path / name, **CREATED, link=True)
        assert (tmp_path / "latest").resolve() == (tmp_path / name).resolve()
    written = {path.relative_to(tmp_path / "two").as_posix() for path in (tmp_path / "two").rglob("*")}
    assert written == {"checkpoints", "config.yaml", "provenance.json", "code", "code/my", "code/my/net.py"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]
    assert (read_metrics(tmp_path / "two"), read_evaluations(tmp_path / "two")) == ([], [])


def test_a_run_refuses_the_directory_of_another(tmp_path: Path) -> None:
    create_run(tmp_path / "run", **CREATED, link=False)
    with pytest.raises(UsageError, match=r"run is not empty; --ckpt_path .*run resumes the run in it"):
        create_run(tmp_path / "run", **CREATED, link=False)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"run_dir: .*file/run can't be written: Not a directory"):
        create_run(tmp_path / "file" / "run", **CREATED, link=False)


def test_without_links_a_run_is_made_without_latest(tmp_path: Path) -> None:
    (tmp_path / "latest" / "kept").mkdir(parents=True)
    create_run(tmp_path / "run", **CREATED, link=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "run"]


def test_evaluations_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best.ckpt"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_evaluation(tmp_path, "test", best, {"n": n, "note": 999 * "x"}), range(200)))
    assert {found["n"] for found in read_evaluations(tmp_path)} == set(range(200))


def test_scores_that_cant_be_written_are_still_printed(lightning, tmp_path: Path, trained: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "evaluations.jsonl"))
    (run / "evaluations.jsonl").mkdir()
    done = lightning("validate", "--ckpt_path", run)
    assert done.status == 0
    assert "val/top1" in done.out
    assert "run/evaluations.jsonl can't be written: Is a directory; the scores are kept nowhere" in done.err
