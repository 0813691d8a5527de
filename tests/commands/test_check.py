"""``lightning check``: a sound configuration passes, and each thing that can be wrong is found and named."""

import re
from pathlib import Path

import pytest
from conftest import CONFIG, SMALL, Done
from PIL import Image

FINDINGS = [
    "classes",
    "pixels",
    "leaks",
    "labels",
    "first_loss",
    "one_batch",
    "gradients",
    "independence",
    "groups",
    "picture",
]

BROKEN = '''
import torch
from torch import Tensor, nn
from torch.optim import SGD

from resnet18 import ResNet
from resnet18 import Digits, ImageTensors


class Data(Digits):
    def __init__(self, fault: str = "", **kwargs) -> None:
        super().__init__(**kwargs)
        self.fault = fault
        if fault == "mean":
            self.mean, self.std = [0.5], [0.25]
        if fault == "unseen":
            self.has_val = True

    def load(self, part):
        images, labels = super().load("train").images.clone(), super().load("train").labels.clone()
        if self.fault == "unseen":
            keep = labels != 7 if part == "val" else labels >= 0
            return ImageTensors(images[keep] ^ (part == "val"), labels[keep])
        if self.fault == "constant":
            images[:] = 9
        if self.fault == "constant channel":
            images[..., 2] = 9
        if self.fault == "some constant":
            images[:200] = 0
        if self.fault == "few":
            keep = (labels != 3) | ((labels == 3).cumsum(0) <= 9)
            images, labels = images[keep], labels[keep]
        if self.fault == "none":
            keep = labels != 3
            images, labels = images[keep], labels[keep]
        if self.fault == "twice":
            images, labels = torch.cat([images, images]), torch.cat([labels, labels])
        if self.fault == "two labels":
            images, labels = torch.cat([images, images[:9]]), torch.cat([labels, (labels[:9] + 1) % 10])
        return ImageTensors(images, labels)


class Small(ResNet):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, in_channels=1, stem="cifar", width=8)


class Mixing(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.embed(x)
        return self.fc(features.t().reshape(features.shape))


class Unused(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.spare = nn.Linear(3, 3)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.gate


class Root(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 * self.gate).sqrt()


class Sure(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.init.normal_(self.fc.weight, std=20)


class Rounding(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x > 0).float())


class Narrow(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :5]


class ZeroHead(Mixing):
    """Mixes, but with a last layer of zeros and a frozen first one."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.init.zeros_(self.fc.weight)
        self.conv1.requires_grad_(False)


class DecaysAll(SGD):
    def __init__(self, params, lr: float, weight_decay: float = 0.01) -> None:
        params = list(params)
        flat = [one for group in params for one in group["params"]] if isinstance(params[0], dict) else params
        super().__init__(flat, lr=lr, momentum=0.9, weight_decay=weight_decay)


class HoldsLess(SGD):
    def __init__(self, params, lr: float) -> None:
        params = list(params)
        flat = [one for group in params for one in group["params"]] if isinstance(params[0], dict) else params
        super().__init__(flat[:-1], lr=lr, momentum=0.9)
'''


def levels(done: Done) -> dict[str, str]:
    """Each finding's level."""
    lines = re.findall(r"(?m)^(ok|warn|wrong|skip) +(\w+(?: \w+)?)", done.out)
    return {name.replace(" ", "_"): level for level, name in lines}


def advice(done: Done, name: str) -> str:
    """What is message of a finding: its line and those with arrows below it."""
    found = re.search(rf"(?m)^\w+ +{name.replace('_', ' ')}  .*\n(?: +.*\n)*", done.out)
    assert found, done.out
    return found[0]


@pytest.fixture
def checked(lightning, tmp_path: Path):
    (tmp_path / "mynet.py").write_text(BROKEN)

    def call(*arguments: object) -> Done:
        done = lightning("check", "--config", CONFIG, *SMALL[2:], *arguments)
        assert not (tmp_path / "runs").exists()
        assert len(done.out.splitlines()) <= 40
        return done

    return call


def test_a_sound_configuration_is_all_right_and_leaves_a_picture_only(lightning, tmp_path: Path) -> None:
    done = lightning("check", "--config", CONFIG, *SMALL)
    assert done.status == 0, done.out + done.err
    assert levels(done) == dict.fromkeys(FINDINGS, "ok")
    assert "no warnings, nothing wrong, in " in done.out.splitlines()[-1]
    assert "\x1b" not in done.out
    assert "weight decay 0.05: 21 tensors, 175,048 parameters such as conv1.weight" in done.out
    assert "weight decay 0: 41 tensors, 1,210 parameters such as bn1.weight" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["check.png"]
    with Image.open("check.png") as picture:
        assert picture.size == (8 * (96 + 8) + 8, 4 * (96 + 20 + 8) + 8)
    again = lightning("check", "--config", CONFIG, *SMALL, "--output", "again.png")
    assert [line for line in again.out.splitlines() if "loss" in line] == [
        line for line in done.out.splitlines() if "loss" in line
    ]
    assert Path("again.png").read_bytes() == Path("check.png").read_bytes()


DATA = {
    "mean": ("pixels", "warn", "mean: [0.305], std: [0.376]"),
    "constant": ("pixels", "wrong", "every image is of one colour"),
    "constant channel": ("pixels", "wrong", "channel 2 has the same value everywhere"),
    "some constant": ("pixels", "warn", "images are of one colour"),
    "few": ("classes", "warn", "the largest class has 1"),
    "unseen": ("classes", "warn", "no validation image of 7"),
    "twice": ("leaks", "wrong", "also trains"),
    "two labels": ("labels", "warn", "one image under two names"),
}


@pytest.mark.parametrize("fault", DATA)
def test_what_is_wrong_with_the_data(fault: str, checked) -> None:
    name, level, message = DATA[fault]
    given = ["--data", "mynet.Data", "--data.fault", fault, "--data.rgb", fault == "constant channel"]
    done = checked("--model.backbone", "mynet.Small", "--steps", "5", *given)
    assert levels(done)[name] == level, done.out
    assert message in advice(done, name)
    if fault == "twice":
        (val, train), *_ = re.findall(r"validation image (\d+) \(training image (\d+)\)", done.out)
        assert 0 <= int(val) < 287
        assert 0 <= int(train) < 2589


def test_a_class_without_training_images_is_refused(checked, tmp_path: Path) -> None:
    done = checked("--model.backbone", "mynet.Small", "--data", "mynet.Data", "--data.fault", "none")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "no image to train on of the class 3" in done.err
    assert not (tmp_path / "check.png").exists()


NETWORKS = {
    "Mixing": {"independence": ("wrong", "change each other's logits")},
    "ZeroHead": {"independence": ("wrong", "change each other's logits"), "groups": ("ok", "72 frozen")},
    "Unused": {"gradients": ("wrong", "no gradient for spare.weight, spare.bias")},
    "Root": {
        "gradients": ("wrong", "that of gate is not finite"),
        "one_batch": ("warn", "nan at step 2"),
        "independence": ("skip", "finite logits"),
    },
    "Sure": {"first_loss": ("warn", "sure of what it can't know")},
    "Rounding": {"independence": ("ok", "others' by 0")},
    "Narrow": {"network": ("wrong", "fails on a batch of 32×1×8×8")},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_wrong_with_the_network(network: str, checked) -> None:
    done = checked("--model.backbone", f"mynet.{network}")
    for name, (level, message) in NETWORKS[network].items():
        assert levels(done)[name] == level, done.out
        assert message in advice(done, name)
    if network == "Unused":
        assert "that of gate is zero at every step" in advice(done, "gradients")
    wrong = [name.replace("_", " ") for name, level in levels(done).items() if level == "wrong"]
    assert done.status == (1 if wrong else 0)
    assert all(name in done.err for name in wrong)


OPTIMIZERS = {
    "high": (
        ["--model.optimizer.lr", "100", "--data.batch_size", "32"],
        "one_batch",
        "wrong",
        "the loss is nan at step",
    ),
    "low": (["--model.optimizer.lr", "1e-9", "--steps", "9"], "one_batch", "wrong", "it hardly moves: try ten times"),
    "clipped to nothing": (
        [
            *("--trainer.gradient_clip_val", "1e-3", "--trainer.gradient_clip_algorithm", "norm", "--steps", "9"),
            *("--model.optimizer", "SGD", "--model.optimizer.lr", "1"),
        ],
        "one_batch",
        "wrong",
        "it hardly moves",
    ),
    "for large batches": (
        ["--data.batch_size", "1024", *("--model.optimizer", "SGD", "--model.optimizer.lr", "100")],
        "one_batch",
        "warn",
        "the loss is nan at step",
    ),
    "decays biases": (["--model.optimizer", "mynet.DecaysAll"], "groups", "warn", "(bn1.weight, bn1.bias,"),
    "holds less": (
        ["--model.optimizer", "mynet.HoldsLess", "--model.optimizer.lr", "0.1"],
        "groups",
        "wrong",
        "does not hold fc.bias",
    ),
    "one cycle": (
        ["--model.schedule", "torch.optim.lr_scheduler.OneCycleLR", "--model.schedule.max_lr", "0.003"],
        "one_batch",
        "ok",
        "by AdamW at lr 0.003",
    ),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_what_is_wrong_with_the_optimizer(case: str, checked) -> None:
    arguments, name, level, message = OPTIMIZERS[case]
    done = checked("--model.backbone", "mynet.Small", *arguments)
    assert levels(done)[name] == level, done.out + done.err
    assert message in advice(done, name)
    assert done.status == (1 if level == "wrong" else 0)


def test_what_is_wrong_with_the_command(lightning, tmp_path: Path) -> None:
    for arguments, status, message in (
        (["--steps", "2"], 2, "steps: must be at least 5, not 2"),
        (["--output", "no/check.png"], 1, "there is no directory no"),
        (["--output", "check.txt"], 1, "check.txt can't be written"),
        (["--data.batch_size", "5000"], 2, "data.batch_size"),
    ):
        done = lightning("check", "--config", CONFIG, *SMALL, *arguments)
        assert done.status == status
        assert message in done.err
    assert not (tmp_path / "runs").exists()


def test_a_run_can_be_checked_again_from_its_weights(lightning, trained: Path) -> None:
    done = lightning("check", "--config", trained / "config.yaml", "--init_from", trained, "--model.schedule", "null")
    assert "weights from" in done.out
    assert levels(done)["first_loss"] == "warn", done.out
    assert "it knows labels" in advice(done, "first_loss")


def test_a_terminal_gets_colours_and_lines_that_fit(lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    done = lightning("check", "--config", CONFIG, *SMALL, "--model.optimizer.lr", "1e-9", "--steps", "5")
    assert "\x1b[1;31mwrong" in done.out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.out).splitlines()
    below = [line for line in lines[2:] if not line.startswith("ok     picture")]
    assert any(line.startswith(f"{' ' * 21}→ it hardly moves") for line in below)
    assert max(map(len, below)) <= 80
