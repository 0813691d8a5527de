"""The commands of the README, run as they stand there."""

import shlex
from pathlib import Path

import numpy
import pytest
import torch
import torchvision
from conftest import ROOT, picture_folder

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
MY_DATA = next(
    block for block in (ROOT / "README.md").read_text().split("```python\n") if block.startswith("# mydata.py")
).partition("```")[0]


def arrays(place: Path) -> None:
    """What the README's own source reads."""
    place.mkdir()
    for part, count in (("train", 400), ("test", 40)):
        labels = numpy.arange(count) % 2
        images = numpy.random.default_rng(0).integers(0, 128, (count, 8, 8, 1)) + 128 * labels[:, None, None, None]
        numpy.savez(place / f"{part}.npz", images=images.astype(numpy.uint8), labels=labels)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_runs(command: list[str], lightning, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for experiment in ("digits", "imagefolder"):  # one run stands for those of both
        (tmp_path / "runs" / experiment).mkdir(parents=True)
        (tmp_path / "runs" / experiment / "latest").symlink_to(trained)
    (tmp_path / "mynet.py").write_text(MY_NET)
    (tmp_path / "mydata.py").write_text(MY_DATA)
    arrays(tmp_path / "arrays")
    picture_folder(tmp_path / "images" / "train")
    command = [{"RUN": str(trained), "DIR": "images"}.get(word, word) for word in command]
    if "images" in command:
        command += ["--data.batch_size", "4", "--data.eval_batch_size", "4", "--data.cache_dir", "cache"]
    if "configs/finetune.yaml" in command:
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
        command += ["--init_from", "weights.pth"]  # which stands for torchvision's, to be downloaded
    elif "--init_from" in command:
        command += ["--model.backbone.width", "8"]  # as the run that stands for RUN
    if command[0] in ("check", "bench"):
        command += [
            "--model.backbone.width",
            "8",
            *(["--steps", "1"] if command[0] == "bench" else []),
        ]
    if command[0] == "fit":
        command += ["--trainer.fast_dev_run", "1"]
    done = lightning(*command)
    assert done.status == 0, done.err


def test_there_are_commands() -> None:
    assert {command[0] for command in COMMANDS} == {"fit", "test", "predict", "check", "bench"}
