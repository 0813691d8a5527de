"""Every shipped configuration: it parses, trains a step, and has a whole header (its numbers: ``tests/benchmarks``).

And every overlay for the machine: it parses on top of one, and those that need no GPU train.
"""

import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from conftest import CONFIG, ROOT, archive_of, picture, picture_folder

from resnet18 import CIFAR10, CIFAR100
from resnet18.storage.records import read_metrics

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "trainer").glob("*.yaml"))
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
def test_a_header_is_whole(config: Path) -> None:
    fields = header(config)
    assert tuple(fields) == FIELDS
    command = f"lightning fit --config configs/{config.name}"
    assert fields["command"] in (command, f"{command} --data.root DIR")
    if fields["results"] == "not yet measured":
        assert {fields[name] for name in ("expects", "takes", "hardware", "memory")} == {"not yet measured"}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.stem)
def test_an_overlay_changes_what_it_says_and_no_more(
    overlay: Path, lightning, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for options in ((), ("--config", overlay)):
        with pytest.raises(SystemExit, match=r"^0$"):
            lightning("fit", "--config", CONFIG, *options, "--print_config")
        printed.append(yaml.safe_load(capfd.readouterr().out))
    (before, after), given = printed, yaml.safe_load(overlay.read_text())
    assert overlay.read_text().startswith("# ")
    assert f"configs/trainer/{overlay.name}" in overlay.read_text() + (ROOT / "configs" / "slurm.sbatch").read_text()
    assert after == before | given | {"trainer": before["trainer"] | given["trainer"]}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.stem)
def test_with_an_overlay_a_run_goes_to_its_end(overlay: Path, lightning, tmp_path: Path) -> None:
    here = ("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1")
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.logger", "false")
    done = lightning(
        "fit",
        *("--config", CONFIG, "--config", overlay, "--model.backbone.width", "8"),
        *(() if overlay.stem == "debug" else short),
        *(here if overlay.stem in ("gpu", "ddp", "slurm") else ()),
    )
    assert done.status == 0, done.err
    run = tmp_path / "runs" / ("debug" if overlay.stem == "debug" else "digits") / "latest"
    steps = [row["step"] for row in read_metrics(run) if "train/loss" in row]
    assert steps == ([0, 1, 2, 3, 4, 5] if overlay.stem == "debug" else [1])
    assert (run / "checkpoints" / "last.ckpt").is_file()
