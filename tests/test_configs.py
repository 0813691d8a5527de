"""Every shipped configuration: it parses, it trains a step, and its header's numbers are those of a stored result."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ROOT, archive_of, picture, picture_folder

from resnet18.data import CIFAR10, CIFAR100

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FIELDS = ("command", "expects", "takes", "hardware", "memory", "protocol", "results")


def header(config: Path) -> dict[str, str]:
    """The fields of the comment that opens a configuration."""
    comment = [line[1:].rstrip() for line in config.read_text().splitlines() if line.startswith("#")]
    fields: dict[str, str] = {}
    for line in comment:
        found = re.match(r" (\w+) {2,}(.+)", line)
        if found and found[1] in FIELDS:
            fields[found[1]] = found[2]
        elif line.startswith("     ") and fields:
            fields[list(fields)[-1]] += f" {line.strip()}"
    return fields


def test_there_are_configurations() -> None:
    assert CONFIGS


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ImageNet's thousand classes and usual size of image, two to train on in each and one to test on."""
    place = tmp_path_factory.mktemp("imagenet")
    pictures = [place / f"{number}.jpg" for number in range(3)]
    for number, file in enumerate(pictures):
        picture(number, 500, 375).save(file)
    for label in range(1000):
        for part, numbers in (("train", (0, 1)), ("val", (2,))):
            folder = place / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in numbers:
                os.link(pictures[number], folder / f"{number}.JPEG")
    return place


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_trains(
    config: Path, lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    options: list[object] = []
    small: list[object] = ["--data.batch_size", 4, "--data.eval_batch_size", 4]
    if config.stem.startswith("cifar"):
        archive_of(CIFAR10 if config.stem == "cifar10" else CIFAR100, tmp_path / "data", monkeypatch)
        options = small
    elif config.stem.startswith("imagenet"):
        place = request.getfixturevalue("imagenet")
        options = ["--data.root", place, "--data.cache_dir", place / "cache", "--data.num_workers", 1, *small]
    elif config.stem in ("imagefolder", "finetune"):
        picture_folder(tmp_path / "images" / "train")
        options = ["--data.cache_dir", "cache", *small]
    if config.stem == "finetune":
        torch.save(torchvision.models.resnet18().state_dict(), "weights.pth")
        options += ["--init_from", "weights.pth"]
    done = lightning("fit", "--config", config, "--trainer.fast_dev_run", 1, *options)
    assert done.status == 0, done.err


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_header_says_what_was_measured(config: Path) -> None:
    fields = header(config)
    assert tuple(fields) == FIELDS
    command = f"lightning fit --config configs/{config.name}"
    assert fields["command"] in (command, f"{command} --data.root DIR")
    if fields["results"] == "not yet measured":
        assert {fields[name] for name in ("expects", "takes", "hardware", "memory")} == {"not yet measured"}
        return
    result = json.loads((ROOT / fields["results"]).read_text())
    mean, spread = result["test_top1_mean"], result["test_top1_sd"]
    expects = f"test/top1 {100 * mean:.2f} % ± {100 * spread:.2f} (mean ± sd over {len(result['runs'])} seeds)"
    assert fields["expects"] == expects
    assert fields["takes"] == f"{result['training_s_median']:.0f} s of training"
    assert fields["memory"] == f"{result['peak_memory_gb']:.1f} GB"
    assert str(result["hardware"]["cores"]) in fields["hardware"]
    assert result["config"] == f"configs/{config.name}"
