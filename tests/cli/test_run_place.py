"""A run's directory and name, and the loggers that write there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import Namespace

from resnet18.cli.explain import KeyedError
from resnet18.cli.run_place import name_loggers, place_run


def place(experiment: str | None = None, run_dir: str | None = None, configs: tuple[Path, ...] = ()) -> Any:
    config = Namespace(data=Namespace(class_path="resnet18.Digits"), experiment=experiment, run_dir=run_dir)
    inputs: Any = SimpleNamespace(config_paths=configs, checkpoint_path=None)
    return place_run(config, inputs)


def test_a_run_lies_in_the_folder_of_its_experiment() -> None:
    by_data = place()
    assert by_data.directory == Path("runs", "digits", by_data.run_id)
    assert not by_data.resumes
    assert place(configs=(Path("a/first.yaml"), Path("second.yaml"))).experiment == "first"
    assert place("mine", configs=(Path("first.yaml"),)).directory.parent == Path("runs", "mine")
    elsewhere = place(run_dir="elsewhere/one")
    assert (elsewhere.directory, elsewhere.run_id) == (Path("elsewhere/one"), "one")


def test_the_environment_names_the_run_for_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert place().directory == Path("runs/digits/abc")
    elsewhere = place(run_dir="elsewhere/one")
    assert (elsewhere.directory, elsewhere.run_id) == (Path("elsewhere/one"), "abc")


def test_a_name_must_stay_below_runs() -> None:
    for name in ("", "..", ".hidden", "a/b", "a\\b", "a\nb"):
        with pytest.raises(KeyedError, match="experiment: must be a name"):
            place(name)


def test_loggers_write_into_the_run_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_NAME", raising=False)
    csv = Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(save_dir="x", name="mine"))
    wandb = Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(save_dir=".", name=None))
    run = place("mine", "elsewhere/one")
    name_loggers([csv, wandb], run)
    assert csv.init_args.save_dir == wandb.init_args.save_dir == str(Path("elsewhere/one").absolute())
    assert csv.init_args.name == "mine"
    assert (wandb.init_args.id, wandb.init_args.name) == ("one", "mine/one")
