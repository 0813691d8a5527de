"""``lightning fit`` before a run has a directory: what is refused leaves nothing behind."""

from pathlib import Path

from conftest import CONFIG, SMALL


def test_a_run_directory_that_cannot_be_written_or_is_in_use(lightning, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "file").touch()
    done = lightning("fit", "--config", CONFIG, "--run_dir", "file/run")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "run_dir: file/run can't be written" in done.err
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    done = lightning("fit", "--config", CONFIG, "--run_dir", trained)
    assert done.status == 2
    assert f"--ckpt_path {trained} resumes the run" in done.err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_another_architecture_does_not_resume_or_start_from_a_checkpoint(
    lightning, tmp_path: Path, trained: Path
) -> None:
    wide = ("fit", "--config", CONFIG, *SMALL, "--model.backbone.width", "16")
    done = lightning(*wide, "--ckpt_path", trained)
    assert done.status == 2
    assert "model.backbone.width: 8 → 16" in done.err
    assert "--init_from" in done.err
    done = lightning(*wide, "--init_from", trained)
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "another architecture" in done.err
    assert "conv1.weight is (8, 1, 3, 3)" in done.err
    assert not (tmp_path / "runs").exists()


def test_a_run_leaves_its_report_unless_told_not_to_and_never_fails_by_it(lightning, trained: Path) -> None:
    assert "report.html" in {path.name for path in trained.iterdir()}
    short = ("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    short += ("--trainer.logger", "false", "--run_dir")
    done = lightning(*short, "without", "--report", "false")
    assert done.status == 0, done.err
    assert not Path("without", "report.html").exists()
    assert "report " not in done.out
    done = lightning("test", "--ckpt_path", "without")
    assert Path("without", "report.html").exists()
    Path("without", "report.html").unlink()
    Path("without", ".report.html").mkdir()  # where the page would be written first
    done = lightning("test", "--ckpt_path", "without")
    assert (done.status, "report: without/report.html can't be written: Is a directory" in done.err) == (0, True)
