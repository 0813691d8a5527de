"""A run's directory and name, and the loggers that write there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CONFIG
from jsonargparse import Namespace

from resnet18.cli.explain import KeyedError
from resnet18.cli.run_place import Place, name_loggers, place_run, run_name


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


def test_loggers_write_into_the_run_under_its_id() -> None:
    csv = Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(save_dir="x", name="mine"))
    wandb = Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(save_dir=".", name=None))
    name_loggers([csv, wandb], place("mine", "elsewhere/one"))
    assert csv.init_args.save_dir == wandb.init_args.save_dir == str(Path("elsewhere/one").absolute())
    assert csv.init_args.name == "mine"
    assert wandb.init_args.id == "one"


RECORD = {
    "seed_everything": 3,
    "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}, "schedule": None},
    "data": {"class_path": "resnet18.Digits", "init_args": {"flip": True}},
    "trainer": {"max_epochs": 9, "logger": {"class_path": "WandbRun", "init_args": {"project": "p"}}},
    "init_from": None,
}


@pytest.mark.parametrize(
    ("arguments", "files", "differs"),
    [
        ([], [], ""),
        (["--model.optimizer.lr", "0.1", "--seed_everything=3"], [], "lr=0.1 seed=3 "),
        (["--trainer.max_epochs", "9", "--model.optimizer", "SGD"], [], "optimizer=SGD max_epochs=9 "),
        (["--config", "a.yaml", "--run_dir", "x", "--trainer.logger.project", "p"], [], ""),
        ([], [{"data": {"init_args": {"flip": True}}}, {"model.optimizer.init_args.lr": 0.1}], "flip=true lr=0.1 "),
        ([], [{"model": {"schedule": None, "optimizer": {"class_path": "SGD"}}}], "schedule=null optimizer=SGD "),
    ],
)
def test_a_name_says_what_differs_from_the_recipe(arguments: list[str], files: list[Any], differs: str) -> None:
    named = [(Path("recipe.yaml"), {"seed_everything": 1}), *((Path("more.yaml"), content) for content in files)]
    inputs: Any = SimpleNamespace(arguments=arguments, files=named)
    run = Place("digits", "20261124-131307-c8d2", Path("x"), resumes=False)
    assert run_name(run, inputs, RECORD) == f"digits {differs}c8d2"


def test_a_long_name_is_cut() -> None:
    callbacks = [f"--model.backbone.option_{number}" for number in range(40)]
    record: Any = {"model": {"backbone": {f"option_{number}": number for number in range(40)}}}
    inputs: Any = SimpleNamespace(arguments=callbacks, files=[])
    name = run_name(Place("digits", "20261124-131307-c8d2", Path("x"), resumes=False), inputs, record)
    assert len(name) <= 128
    assert name.startswith("digits option_0=0 ")
    assert name.endswith(" … c8d2")


def test_settings_of_w_and_b_which_a_run_would_keep_are_refused(lightning, tmp_path: Path) -> None:
    done = lightning("fit", "--config", CONFIG, "--trainer.logger.settings", "{api_key: mine}")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "trainer.logger.settings: can't be given" in done.err
    assert "WANDB_API_KEY" in done.err
    assert not (tmp_path / "runs").exists()
