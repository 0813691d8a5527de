"""An offline run that was killed, resumed, tested and moved to another machine, and then uploaded."""

import sys
from pathlib import Path

from conftest import start
from wandb_runs import history, kill_a_run, written
from wandb_server import WandbServer


def test_an_offline_run_is_uploaded_whole_from_another_machine(
    lightning, wandb_server: WandbServer, tmp_path: Path
) -> None:
    kill_a_run(tmp_path)
    for command in ("fit", "test"):
        done = lightning(command, "--ckpt_path", "run")
        assert done.status == 0, done.err
    moved, home = tmp_path / "elsewhere" / "run", tmp_path / "home"
    home.mkdir()
    moved.parent.mkdir()
    (tmp_path / "run").rename(moved)
    places = {"HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    parts = sorted((moved / "wandb").glob("offline-run-*"))
    program = (sys.executable, "-m", "wandb", "sync")
    process = start(parts, moved.parent, program, **{**wandb_server.environment, **places})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err

    (run,) = wandb_server.runs.values()
    assert len(parts) > 1
    assert history(run) == written(moved)
    steps = [row["_step"] for row in run.rows]
    assert steps == sorted(set(steps))
    assert {"test/top1", "best/top1", "val/loss", "train/loss"} <= run.summary.keys()
    for name in ("train/batch", "val/mistakes", "test/mistakes"):
        (shown,) = [row[name] for row in run.rows if name in row]
        assert shown["filenames"]
        assert all(run.files[file].startswith(b"\x89PNG") for file in shown["filenames"])
