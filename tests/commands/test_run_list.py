import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import start

from resnet18.storage.records import read_config, read_json, write_config, write_json


@pytest.fixture
def made(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a run in ``runs/`` with changed files."""

    def make(place: str, tops: tuple[float, ...] = (0.5, 0.6), test: float | None = None, **changes: Any) -> Path:
        run = tmp_path / "runs" / place
        run.mkdir(parents=True)
        for name in ("provenance.json", "status.json"):
            shutil.copy(trained / name, run)
        config = read_config(trained)
        for key, value in changes.items():
            *above, last = key.split("__")
            part = config
            for name in above:
                part = part[name]
            part[last] = value
        write_config(run, config)
        rows = [f"{epoch},{20 * epoch + 19},{top1}" for epoch, top1 in enumerate(tops)]
        monitor = config["best"]["monitor"]
        (run / "metrics.csv").write_text("\n".join([f"epoch,step,{monitor}", *rows, ""]))
        if test is not None:
            record = {"command": "test", "given": {}, "flip_tta": False, "test/loss": 0.7, "test/top1": test}
            (run / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
        return run

    return make


def table(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_the_best_comes_first_with_what_differs_from_the_oldest(lightning, made, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made("digits/20261124-100000-aaaa", (0.5, 0.9, 0.9), 0.8)
    made("digits/20261124-110000-bbbb", (0.5, 0.95), seed_everything=2, model__optimizer__init_args__lr=0.01)
    run = made("digits/20261124-120000-cccc", (), seed_everything=3)
    write_json(run / "status.json", {"state": "diverged", "reason": "NaN", "seconds": 120, "began": 0})
    (run.parent / "latest").symlink_to(run.name, target_is_directory=True)
    done = lightning("runs", "digits")
    assert (done.status, done.err) == (0, "")
    title, header, *rows = done.out.splitlines()
    assert title == "runs/digits"
    assert max(map(len, (header, *rows))) <= 80
    assert header.split() == ["run", "state", "epochs", "val/top1", "in", "test/top1", "min", "differs"]
    assert [row.split()[0] for row in rows if row.startswith("2026")] == [
        "20261124-110000-bbbb",
        "20261124-100000-aaaa",
        "20261124-120000-cccc",
    ]
    assert rows[0].split()[1:6] == ["finished", "2/3", "95.00", "%", "2"]
    assert rows[2].split()[1:3] == ["diverged", "0/3"]
    assert "90.00 %  3   80.00 %" in rows[1]  # of equal epochs the last, which is kept
    text = " ".join(done.out.split())
    assert "lr 0.01" in text
    assert "lr 0.002" in text
    assert "seed 3" in text


def test_all_experiments_groups_and_monitors_have_tables_of_their_own(lightning, made) -> None:
    made("digits/one", (0.7,))
    made("digits/two", (0.3, 0.2), best={"monitor": "val/loss", "mode": "min"})
    made("digits/three", (0.1, 0.15), best={"monitor": "val/loss", "mode": "min"})
    made("digits-seeds/seed-1")
    made("digits-seeds/seed-2", test=0.4, seed_everything=2)
    done = lightning("runs")
    assert (done.status, done.err) == (0, "")
    names = [row[0] for row in table(done.out) if row]
    assert names == [
        *("runs/digits", "run", "three", "two", "runs/digits", "run", "one"),
        *("runs/digits-seeds", "run", "seed-1", "seed-2"),
    ]
    assert "val/loss" in done.out
    assert [row[0] for row in table(lightning("runs", "digits-seeds", "--sort", "test").out)][2:] == [
        "seed-2",
        "seed-1",
    ]
    assert lightning("runs", "runs/digits").out.startswith("runs/digits\n")


def test_json_has_everything(lightning, made) -> None:
    made("digits/one", (0.5, 0.75), 0.8)
    made("digits/two", seed_everything=2)
    first, second = json.loads(lightning("runs", "--json").out)
    origin = read_json(made("other/one") / "provenance.json")
    assert first == {
        **{"run": "one", "directory": "runs/digits/one", "experiment": "digits", "state": "finished", "reason": ""},
        **{"epochs": 2, "planned": 3, "monitor": "val/top1", "mode": "max", "best": 0.75, "best_epoch": 1},
        **{"test": {"test/loss": 0.7, "test/top1": 0.8}, "minutes": pytest.approx(0.1, abs=0.2), "seed": 1},
        **{"started": origin["started"], "git": origin["git"]["sha"], "split_hash": origin["split_hash"]},
        "differs": {"seed_everything": 1},
    }
    assert second["differs"] == {"seed_everything": 2}
    assert second["test"] == {}


def test_what_can_not_be_read_costs_a_line_and_hides_no_other(lightning, made) -> None:
    made("digits/one")
    (made("digits/two") / "config.yaml").write_text("model: [")
    (made("digits/three") / "status.json").write_text("{")
    (made("digits/four") / "metrics.csv").write_text("epoch,val/top1\nx,1\n")
    done = lightning("runs")
    assert done.status == 0
    assert {row[0] for row in table(done.out)[2:]} == {"one", "three", "four"}
    complaints = sorted(done.err.splitlines())
    assert len(complaints) == 3
    for name, complaint in zip(("four/metrics.csv", "three/status.json", "two/config.yaml"), complaints, strict=True):
        assert f"{name} can't be read: " in complaint


def test_a_name_that_is_no_experiment_costs_a_line(lightning, made) -> None:
    assert lightning("runs").err == "lightning runs: there is no directory runs here\n"
    made("digits/one")
    done = lightning("runs", "digit")
    assert done.status == 2
    assert done.err == "lightning runs: there is no digit below runs, and no such directory; did you mean digits?\n"
    done = lightning("runs", "--sort", "tset")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    Path("empty").mkdir()
    done = lightning("runs", "empty")
    assert (done.status, done.err) == (1, "lightning runs: there is no run in empty\n")


def test_nothing_heavy_is_imported_and_a_reader_may_stop_early(made, tmp_path: Path) -> None:
    for number in range(200):
        made(f"digits/{number:03d}")
    code = "import sys; from resnet18.__main__ import main; main(['runs'])"
    code += "; assert not {'torch', 'lightning', 'wandb', 'scipy'} & {*sys.modules}"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    assert len(process.stdout.splitlines()) == 202
    piped = start(["runs", "--json"], tmp_path)
    assert piped.stdout is not None
    assert piped.stdout.readline() == "[\n"
    piped.stdout.close()
    assert piped.stderr is not None
    assert piped.stderr.read() == ""
    assert piped.wait() == 141
