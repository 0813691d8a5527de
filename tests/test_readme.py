"""The commands of the README and of ``docs/``, run as they stand there, with the example files that stand there."""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy
import pytest
import torch
import torchvision
from conftest import ROOT, copied, picture_folder

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
COMMANDS = sorted(
    {tuple(shlex.split(line, comments=True)[1:]) for line in TEXT.splitlines() if line.startswith("    lightning ")}
)
FILES = {name: block for block, name in re.findall(r"```\w+\n(# ([\w.]+).*?)```", TEXT, re.DOTALL)}
TIMM = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=1000, in_chans=3):
        super().__init__(nn.Flatten(), nn.Linear(64 * in_chans, num_classes))

def create_model(model_name: str, pretrained: bool = False, **kwargs):
    return Net(**kwargs)
"""


def arrays(place: Path) -> None:
    """What the source in ``mydata.py`` reads."""
    place.mkdir()
    for part, count in (("train", 400), ("test", 40)):
        labels = numpy.arange(count) % 2
        images = numpy.random.default_rng(0).integers(0, 128, (count, 8, 8, 1)) + 128 * labels[:, None, None, None]
        numpy.savez(place / f"{part}.npz", images=images.astype(numpy.uint8), labels=labels)


@pytest.fixture
def place(tmp_path: Path, trained: Path) -> Path:
    """A working directory with all that the commands name."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    run = copied(trained, tmp_path)
    (tmp_path / "runs" / "imagefolder").mkdir()
    (tmp_path / "runs" / "imagefolder" / "latest").symlink_to(run)  # one stands for those of both
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "timm.py").write_text(TIMM)  # which is not installed
    arrays(tmp_path / "arrays")
    picture_folder(tmp_path / "images" / "train")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_runs(command: tuple[str, ...], lightning, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        {"RUN": str(place / "runs" / "digits" / "latest"), "DIR": "images"}.get(word, word) for word in command
    ]
    if "images" in arguments and arguments[0] != "predict":
        arguments += ["--data.batch_size", "4", "--data.eval_batch_size", "4", "--data.cache_dir", "cache"]
    if "configs/finetune.yaml" in arguments:
        arguments += ["--init_from", "weights.pth"]  # which stands for torchvision's, to be downloaded
    elif "--init_from" in arguments:
        arguments += ["--model.backbone.width", "8"]  # as the run that stands for RUN
    if arguments[0] in ("check", "bench"):
        arguments += ["--model.backbone.width", "8", *(["--steps", "1"] if arguments[0] == "bench" else [])]
    if arguments[0] == "fit":
        arguments += ["--trainer.fast_dev_run", "1"]
    if arguments[0] in ("seeds", "sweep"):  # up to the first training, a process of its own
        if "--against" in arguments:
            group = place / "runs" / arguments[arguments.index("--against") + 1]
            shutil.copytree(place / "runs" / "digits" / "latest", group / "seed-1")
        module = importlib.import_module(f"resnet18.commands.{arguments[0]}")
        monkeypatch.setattr(module, "train", lambda *_, **__: sys.exit("a training starts"))
        with pytest.raises(SystemExit, match="a training starts"):
            lightning(*arguments)
        return
    done = lightning(*arguments)
    assert done.status == 0, done.err


def test_there_are_commands_and_files() -> None:
    assert {command[0] for command in COMMANDS} == {
        *("fit", "test", "predict", "check", "bench", "runs", "report", "seeds", "sweep", "export", "dashboard")
    }
    assert FILES.keys() == {
        *("mynet.py", "myloss.py", "f1.yaml", "mycallback.py", "mymodel.py", "mydata.py", "myschedule.py", "mytask.py")
    }
    assert len(FILES["mytask.py"].splitlines()) <= 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()) + re.findall(r'src="([^"]+)"', page.read_text()):
        assert "://" in target or (page.parent / target).exists() or "benchmarks/" in target, target
