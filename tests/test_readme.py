"""The commands of the README, run as they stand there."""

import shlex
from pathlib import Path

import pytest
from conftest import ROOT

COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for line in (ROOT / "README.md").read_text().splitlines()
    if line.startswith("    lightning ")
]

MY_NET = """
from torch import nn

class MyNet(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
"""
MY_DATA = """
import torch
from resnet18 import ImageDataModule
from resnet18.data import Pixels

class MyData(ImageDataModule):
    class_names = ("dark", "bright")
    mean, std = [0.5], [0.3]
    input_size = (1, 8, 8)

    def load(self, part: str) -> Pixels:
        labels = torch.arange(400) % 2
        images = torch.randint(0, 128, (400, 8, 8, 1)) + 128 * labels.view(-1, 1, 1, 1)
        return Pixels(images.to(torch.uint8), labels)
"""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_runs(command: list[str], lightning, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "latest").symlink_to(trained)
    (tmp_path / "mynet.py").write_text(MY_NET)
    (tmp_path / "mydata.py").write_text(MY_DATA)
    command = [str(trained) if word == "RUN" else word for word in command]
    if "--init_from" in command:
        command += ["--model.backbone.width", "8"]  # as the run that stands for RUN
    if command[0] == "fit":
        command += ["--trainer.fast_dev_run", "1"]
    done = lightning(*command)
    assert done.status == 0, done.err
    (trained / "test.json").unlink(missing_ok=True)


def test_there_are_commands() -> None:
    assert {command[0] for command in COMMANDS} == {"fit", "test", "predict"}
