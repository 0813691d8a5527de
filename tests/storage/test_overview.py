"""A run at a glance, from its files alone, whole or not; and in what configurations differ."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resnet18.errors import RunError
from resnet18.storage.overview import differences, overview, run_directories, short_names, shown
from resnet18.storage.records import read_metrics


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "digits" / "one"))


def test_a_finished_run(trained: Path) -> None:
    seen = overview(trained)
    assert (seen.state, seen.epochs, seen.planned, seen.experiment) == ("finished", 3, 3, "digits")
    best = max((row["val/top1"], row["epoch"]) for row in read_metrics(trained) if "val/top1" in row)
    assert (seen.best, seen.best_epoch, seen.monitor, seen.mode) == (*best, "val/top1", "max")
    assert seen.minutes is not None
    assert 0 < seen.minutes < 10
    assert seen.problems == []


def test_a_metric_that_should_be_low_is_best_where_it_is_lowest(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["best"] = {"monitor": "val/loss", "mode": "min"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert overview(run).best == min(row["val/loss"] for row in read_metrics(run) if "val/loss" in row)


def test_only_a_test_with_the_runs_own_options_is_its_score(run: Path) -> None:
    given = [
        {"command": "test", "given": {}, "flip_tta": False, "test/top1": 0.5},
        {"command": "validate", "given": {}, "flip_tta": False, "val/top1": 0.6},
        {"command": "test", "given": {}, "flip_tta": True, "test/top1": 0.7},
        {"command": "test", "given": {"data.root": "elsewhere"}, "flip_tta": False, "test/top1": 0.8},
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
    assert overview(run).test == {"test/top1": 0.5}


def test_a_run_of_an_earlier_version_is_judged_by_its_epochs(run: Path) -> None:
    (run / "status.json").unlink()
    assert (overview(run).state, overview(run).minutes) == ("finished", None)
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(rows[:-4]) + "\n2,5")  # killed in the third epoch, in mid-row
    assert (overview(run).state, overview(run).epochs) == ("stopped", 2)


def test_broken_files_are_named_and_the_rest_is_read(run: Path) -> None:
    (run / "status.json").write_text("{")
    (run / "provenance.json").write_text("nonsense")
    (run / "evaluations.jsonl").write_text("{\n")
    seen = overview(run)
    assert seen.epochs == 3
    assert [problem.split()[0].rpartition("/")[2] for problem in seen.problems] == [
        *("provenance.json", "status.json", "one:")
    ]


def test_a_directory_without_a_configuration_is_no_run(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no config\.yaml"):
        overview(tmp_path)
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"config\.yaml can't be read"):
        overview(run)


def test_runs_are_found_once_and_in_groups(run: Path, tmp_path: Path) -> None:
    (run.parent / "latest").symlink_to("one")
    other = run.parent / "group" / "seed-1"
    shutil.copytree(run, other)
    assert run_directories(tmp_path / "runs") == [run]
    assert run_directories(run.parent) == sorted([run, other], key=lambda path: path.name)


def test_configurations_differ_by_the_names_of_the_command_line() -> None:
    one = {
        "seed_everything": 1,
        "experiment": "a",
        "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}},
        "trainer": {"logger": True, "callbacks": [{"class_path": "Freeze", "init_args": {"epochs": 1}}]},
    }
    other = json.loads(json.dumps(one))
    assert differences([one, other]) == {}
    other |= {"seed_everything": 2, "experiment": "b"}
    other["trainer"]["logger"] = False
    other["model"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "fused": True}}
    other["trainer"]["callbacks"][0]["init_args"]["epochs"] = 2
    assert differences([one, other]) == {
        "seed_everything": [1, 2],
        "model.optimizer": ["torch.optim.SGD", "torch.optim.AdamW"],
        "model.optimizer.fused": [None, True],
        "trainer.callbacks[0].epochs": [1, 2],
    }


def test_names_are_as_short_as_they_stay_apart() -> None:
    keys = ["seed_everything", "model.optimizer.lr", "model.backbone.lr", "data.batch_size"]
    assert list(short_names(keys).values()) == ["seed", "optimizer.lr", "backbone.lr", "batch_size"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0010, "0.001"),
        (None, "null"),
        (True, "true"),
        ("resnet18.schedules.OneCycle", "OneCycle"),
        ("a/b.c", "a/b.c"),
    ],
)
def test_values_are_short(value: object, text: str) -> None:
    assert shown(value) == text


def test_looking_at_runs_imports_nothing_heavy() -> None:
    script = "import sys, resnet18.storage.overview; print({'torch', 'lightning', 'wandb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
