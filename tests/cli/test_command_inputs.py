"""A command's files and options before parsing: their order, and the file that a key comes from."""

from pathlib import Path

import pytest
from conftest import CONFIG

from resnet18.cli.command_inputs import Inputs, take

ARGUMENTS = ["--a", "1", "--b.c=2", "--a=3", "-x", "--bb", "-4", "word"]


def test_the_values_of_an_option_are_taken_in_order_and_the_rest_stays() -> None:
    assert take(ARGUMENTS, "--a") == (["1", "3"], ["--b.c=2", "-x", "--bb", "-4", "word"])
    assert take(ARGUMENTS, "--b") == ([], ARGUMENTS)  # no abbreviation
    assert take(["--a", "1", "--a"], "--a") == ([], ["--a", "1", "--a"])  # the parser says that a value is missing


def test_an_option_may_have_many_values_each_time_it_is_given() -> None:
    arguments = ["--images", "a", "b c", "--output", "-", "--images=d", "--topk", "2", "--images", "e"]
    assert take(arguments, "--images", many=True) == (["a", "b c", "d", "e"], ["--output", "-", "--topk", "2"])
    assert take(["--images"], "--images", many=True) == ([], ["--images"])


def test_options_keep_their_order_however_they_are_joined_to_their_values(lightning, tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(CONFIG.read_text())
    (tmp_path / "second.yaml").write_text("experiment: ..\n")  # refused, with the name of this file
    for options in (["--config=first.yaml", "--config", "second.yaml"], ["--config", "first.yaml", "-csecond.yaml"]):
        assert "second.yaml: experiment: must be" in lightning("fit", *options).err
    (tmp_path / ".hidden.yaml").write_text("trainer: {max_epochs: 1}\n")
    done = lightning("fit", "--config", ".hidden.yaml", "--config=first.yaml")
    assert "experiment: must be a name" in done.err  # of the first, which names the experiment
    done = lightning("test", "--ckpt_path", "a.ckpt", "--ckpt_path=b.ckpt")
    assert "there is no checkpoint or run b.ckpt" in done.err
    done = lightning("test", "--ckpt_path=a.ckpt", "--ckpt_path", "b.ckpt")
    assert "there is no checkpoint or run b.ckpt" in done.err


@pytest.mark.parametrize(
    ("key", "options", "file"),
    [
        ("model.optimizer.lr", [], "first.yaml: "),
        ("model.optimizer.lr", ["--model.optimizer.lr=1"], ""),
        ("model.optimizer.lr", ["--model.optimizer", "SGD"], ""),
        ("model.metrics.classes", [], "second.yaml: "),  # by the nearest key above
        ("model.metrics.classes", ["--model.metrics.f1.classes=3"], ""),
        ("model.ema", [], ""),  # a default; that both files have a model tells nothing
        ("experiment", [], ""),
    ],
)
def test_a_key_is_traced_to_its_file(key: str, options: list[str], file: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first.yaml").write_text("model: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1}}}\n")
    Path("second.yaml").write_text("model: {metrics: {f1: {class_path: a.F1, init_args: {classes: 3}}}}\n")
    inputs = Inputs("fit", ["--config=first.yaml", "--config=second.yaml", *options])
    assert inputs.source_of(key) == file
