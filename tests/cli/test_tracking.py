"""What W&B gets of a run at its end and of its evaluations, in one directory that can be moved."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import CONFIG, SMALL, start, wandb_records
from wandb_server import WandbServer

from resnet18.storage.wandb_parts import parts

SHORT = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")


def rows(part: Path) -> list[dict[str, object]]:
    return [record["history"]["item"] for record in wandb_records(part) if record["type"] == "history"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An offline run, tested and validated, on another machine: moved, and its home directory gone."""
    place = tmp_path_factory.mktemp("moved")
    home = place / "home"
    home.mkdir()
    environment = {name: str(home / name) for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    run = ("--ckpt_path", "runs/digits/latest")
    for command in (["fit", "--config", CONFIG, *SMALL, *SHORT], ["test", *run], ["validate", *run]):
        process = start(command, place, HOME=str(home), **environment)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    left = [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in path.parts]
    # The log of W&B's own service has the run's id and nothing else of it.
    assert {path.parent.name for path in left} == {"logs"}
    assert not any(word in path.read_text() for path in left for word in ("val/top1", "ResNet", "evaluation"))
    shutil.rmtree(home)
    return Path(shutil.move((place / "runs" / "digits" / "latest").resolve(), place / "elsewhere"))


def test_an_evaluation_is_a_part_of_the_run_with_scores_and_pictures(moved: Path) -> None:
    fitted, tested, validated = parts(moved)
    for part, section in ((tested, "test"), (validated, "validate")):
        scores, media = rows(part)
        assert {f"{section}/loss", f"{section}/top1", "epoch"} <= scores.keys()
        assert isinstance(media[f"{section}/calibration_error"], float)
        assert {media[f"{section}/{name}._type"] for name in ("confusion", "per_class", "reliability")} == {"html-file"}
    last = rows(fitted)[-1]
    assert (last["val/mistakes._type"], last["train/batch._type"]) == ("images/separated", "images/separated")
    files = [path for path in moved.rglob("media/html/*/*.html") if not path.is_relative_to(moved / "wandb/latest-run")]
    assert len(files) == 9
    assert not any("http://" in file.read_text() or "https://" in file.read_text() for file in files)


def test_a_moved_run_is_uploaded_whole_and_as_one(moved: Path, wandb_server: WandbServer, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "wandb", "sync", *map(str, parts(moved)))
    process = start([], tmp_path, command, HOME=str(tmp_path), **wandb_server.environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    (run,) = wandb_server.runs.values()
    assert len(run.rows) == sum(len(rows(part)) for part in parts(moved))
    shown = [value for row in run.rows for value in row.values() if isinstance(value, dict) and "_type" in value]
    assert len(shown) == 13  # three drawings and the mistakes of three evaluations, and the first batch
    for media in shown:
        assert all(run.files[name] for name in media.get("filenames", [media.get("path")]))
    # Every part has a summary, and the last one's takes the place of the others'.
    assert {"val/top1", "best/top1", "test/top1", "validate/top1", "val/calibration_error"} <= run.summary.keys()
    assert run.files[run.summary["val/confusion"]["path"]]


def test_other_options_than_the_runs_are_not_taken_for_its_scores(lightning, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    for options in (["--flip_tta", "true"], ["--trainer.limit_test_batches", "1"]):
        assert lightning("test", "--ckpt_path", run, *options).status == 0
    found = [rows(part)[0] for part in parts(run)[1:]]
    assert ["test_flip_tta/top1" in found[0], "test_changed/top1" in found[1]] == [True, True]
    assert not any("test/top1" in row for row in found)


@pytest.mark.parametrize("broken", ["{", '{"confusion": 1}', None])
def test_pictures_that_cannot_be_drawn_cost_no_scores(
    broken: str | None, lightning, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    monkeypatch.setattr("resnet18.callbacks.evaluation.EvaluationRecord.write", lambda *_: None)
    if broken:
        (run / "evaluation-test.json").write_text(broken)
    done = lightning("test", "--ckpt_path", run, "--report", "false")
    assert done.status == 0
    assert [line for line in done.err.splitlines() if "W&B gets no pictures" in line] == done.err.splitlines()
    assert bool(done.err) == bool(broken)
    assert len(rows(parts(run)[-1])) == 1


def test_a_stopped_run_shows_its_best_epoch_so_far(lightning, tmp_path: Path) -> None:
    (tmp_path / "stop.py").write_text(
        "from lightning.pytorch import Callback\n\nclass Stop(Callback):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        if trainer.current_epoch == 1:\n            raise KeyboardInterrupt\n"
    )
    sys.modules.pop("stop", None)
    options = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1", "--run_dir", "run")
    done = lightning("fit", "--config", CONFIG, *SMALL, *options, "--trainer.callbacks+", "stop.Stop")
    assert done.status != 0
    last = rows(parts(tmp_path / "run")[0])[-1]
    assert "val/confusion._type" in last
    assert last["epoch"] == json.loads((tmp_path / "run" / "evaluation-val.json").read_text())["epoch"] == 0
