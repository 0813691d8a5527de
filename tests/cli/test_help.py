"""``lightning COMMAND --help``: one page of common options, and all of them with ``--help all``."""

import re
from collections.abc import Callable
from typing import Literal, Optional

import pytest
import yaml
from conftest import CONFIG
from torch.optim import Optimizer

from resnet18.cli import COMMANDS, LIGHT
from resnet18.cli.help import _kinds, plain

OPTION = re.compile(r"^  (--[\w.]+)", re.MULTILINE)
MARKUP = ("``", ":class:", ":func:", ":mod:", ".. note", "known subclasses")


@pytest.fixture
def shown(lightning, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints that runs nothing."""

    def show(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            lightning(*arguments)
        assert stopped.value.code == 0
        return capfd.readouterr().out

    return show


@pytest.mark.parametrize("command", LIGHT)
def test_the_help_of_a_light_command_fits_a_terminal(command: str, shown) -> None:
    page = shown(command, "--help")
    assert page.startswith(f"usage: lightning {command} ")
    assert max(map(len, page.splitlines())) <= 80
    assert not any(markup in page for markup in MARKUP)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in LIGHT])
def test_the_help_of_a_command_is_a_page_with_its_own_options_first(command: str, shown) -> None:
    page = shown(command, "--help")
    options = OPTION.findall(page)
    assert len(page.splitlines()) < 120
    assert max(map(len, page.splitlines())) <= 80
    assert not any(markup in page for markup in MARKUP)
    own = {"fit": 7, "validate": 5, "test": 5, "predict": 7, "check": 5, "bench": 5}[command]
    trains = command in ("fit", "check", "bench")
    assert options[0] == "--config"
    assert ("--ckpt_path" in options) == (command not in ("check", "bench"))
    assert not any("." in option for option in options[:own])
    assert ("--model.mixup" in options) == trains
    assert ("--trainer.max_epochs" in options) == ("--experiment" in options) == (command == "fit")
    groups = re.findall(r"(?m)^([a-z]+)(?:, \w+)?:$", page)
    kept = ["best", "last"] if command == "fit" else []
    assert groups == ["options", *kept, *(["model"] if trains else []), "data", "trainer", "more"]


def test_it_shows_the_values_and_the_source_of_the_configuration(shown) -> None:
    page = shown("fit", "--config", CONFIG, "--help")
    for line in ("--data Digits", "--data.rgb false", "--data.batch_size 64", "--model.optimizer AdamW"):
        assert f"\n  {line} " in page
    assert "\ndata, Digits:\n" in page
    assert "--data.image_size" not in page
    page = shown("fit", "--help", "--config", CONFIG, "--data", "ImageFolder")
    assert "\ndata, ImageFolder:\n" in page
    assert "--data.image_size 128 " in page
    assert "--data.root" in page


def test_of_two_configurations_the_later_counts(shown, tmp_path) -> None:
    (tmp_path / "more.yaml").write_text(
        "model: {optimizer: torch.optim.SGD, ema: 0.5}\n"
        "trainer: {devices: [0, 1], callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]}\n"
    )
    page = shown("fit", "--config", CONFIG, "--config", "more.yaml", "--help")
    for line in ("--model.optimizer SGD", "--model.ema 0.5", "--data Digits", "--trainer.devices [0, 1]"):
        assert f"\n  {line} " in page
    assert "\n  --trainer.callbacks [EarlyStopping]\n" in page


def test_a_source_of_your_own_is_shown(shown, tmp_path) -> None:
    (tmp_path / "mydata.py").write_text(
        "from resnet18.data.digits import Digits\n"
        "class Mine(Digits):\n"
        "    def __init__(self, contrast: float = 0.7, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
    )
    page = shown("fit", "--data", "mydata.Mine", "--help")
    assert "\ndata, Mine:\n" in page
    assert "\n  --data.contrast 0.7 " in page
    assert "\ndata, ImageDataModule:\n" in shown("fit", "--data", "nosuch.Source", "--help")


def test_every_option_of_the_full_help_is_taken(shown) -> None:
    page = shown("fit", "--config", CONFIG, "--help", "all")
    options = {option[2:] for option in OPTION.findall(page)} - {"config", "print_config", "help", "KEY.help"}
    assert not any(markup in page for markup in MARKUP)
    assert len(page.splitlines()) < 400
    config = yaml.safe_load(shown("fit", "--config", CONFIG, "--print_config"))
    config["data"] = config["data"]["init_args"]
    groups = ("model", "data", "trainer", "best", "last")
    assert options == {*config, *(f"{group}.{name}" for group in groups for name in config[group])} - {"data.seed"}


def test_the_help_of_a_class_is_without_markup_and_lists_of_modules(shown) -> None:
    page = shown("fit", "--model.backbone.help", "torchvision.models.resnet.Bottleneck")
    assert "--model.backbone.norm_layer" in page
    assert "known subclasses" not in page
    assert len(page.splitlines()) < 40
    assert "``" not in shown("fit", "--trainer.callbacks.help", "EarlyStopping")
    assert "(required, type: int)" in shown("fit", "--trainer.callbacks.help", "Freeze")
    page = shown("fit", "--data.help", "Digits")
    assert "Field" not in page
    assert "type: float, default: 0.1" in page


@pytest.mark.parametrize(
    ("hint", "kinds"),
    [
        (int | None, ["int"]),
        (Optional[Literal["max", "min"]], ["max", "min"]),  # noqa: UP045
        (Callable[[list], Optimizer], ["Optimizer"]),
        (list[int] | str | int, ["int", "str"]),
    ],
)
def test_types_are_put_into_words(hint: object, kinds: list[str]) -> None:
    assert _kinds(hint) == kinds


def test_markup_is_taken_out() -> None:
    text = "Of ``val/loss``; see :func:`~resnet18.losses.training_loss` or :class:`a net <torch.nn.Module>`."
    assert plain(text) == "Of val/loss; see training_loss or a net."
