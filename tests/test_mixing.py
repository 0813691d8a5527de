"""MixUp and CutMix: what they blend, what they wait for, and that a resumed run repeats their draws."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from resnet18 import Classifier
from resnet18.losses import Mixing, training_loss

NET = """
from lightning.pytorch import Callback
from torch import nn

from resnet18.errors import RunError

class Net(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*layers, nn.Dropout(0.1), nn.Linear(8, num_classes))

class Crash(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 30:
            raise RunError("crashed")
"""
FIT = (
    *("fit", "--model.backbone", "mynet.Net", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1"),
    *("--model.optimizer.momentum", "0.9", "--data", "Digits", "--trainer.logger", "false"),
    *("--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "5", "--last.every_n_steps", "7"),
    *("--model.mixup", "0.8", "--model.cutmix", "1.0"),
)


def batch(count: int = 16, size: int = 8) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=numbers)
    return images, torch.arange(count) % 10


def make(backbone: nn.Module | None = None, **settings: Any) -> Classifier:
    torch.manual_seed(0)
    backbone = backbone or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Classifier(backbone, partial(SGD, lr=0.1), num_classes=10, mean=[0.3], std=[0.4], **settings)


class Sees(nn.Module):
    """Keeps what it is given."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.inputs = inputs
        return inputs.flatten(1)[:, :10]


def test_mixup_blends_normalised_images_with_their_neighbours_and_labels_alike() -> None:
    images, labels = batch(10)  # neighbours are of other classes
    inputs = make().normalize(images)
    mixed, soft = Mixing(mixup=1.0, cutmix=0.0, num_classes=10)(inputs, labels)
    share = soft[0, labels[0]]
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * inputs + (1 - share) * inputs.roll(1, 0))
    torch.testing.assert_close(soft, share * F.one_hot(labels, 10) + (1 - share) * F.one_hot(labels.roll(1), 10))


def test_cutmix_labels_count_the_pixels_that_are_there() -> None:
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 8, 8)
    torch.manual_seed(0)
    mixing = Mixing(mixup=0.0, cutmix=1.0, num_classes=10)
    shares = []
    for _ in range(20):
        mixed, soft = mixing(images, torch.arange(10))
        own = (mixed == images).flatten(1).float().mean(1)
        assert ((mixed == images) | (mixed == images.roll(1, 0))).all()
        torch.testing.assert_close(soft.diagonal(), own)
        torch.testing.assert_close(soft.sum(1), torch.ones(10))
        shares.append(own[0].item())
    assert len(set(shares)) > 5


def test_one_of_both_is_drawn_for_each_batch() -> None:
    images = make().normalize(batch()[0])
    labels = batch()[1]
    mixing = Mixing(mixup=1.0, cutmix=1.0, num_classes=10)
    torch.manual_seed(0)
    kinds = []
    for _ in range(40):
        mixed, _ = mixing(images, labels)
        kinds.append(bool(((mixed == images) | (mixed == images.roll(1, 0))).all()))  # whole pixels: CutMix
    assert 5 < sum(kinds) < 35


@pytest.mark.parametrize("alphas", [(0.3, 0.0), (0.0, 0.3), (0.3, 0.3)])
def test_nothing_waits_for_the_device(alphas: tuple[float, float]) -> None:
    # A meta tensor has no values: whoever looks at one fails.
    images, labels = torch.empty(8, 3, 32, 32, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    for _ in range(10):
        mixed, soft = Mixing(*alphas, num_classes=5)(images, labels)
        assert (mixed.shape, soft.shape, soft.dtype) == (images.shape, (8, 5), torch.float32)
        for loss in ("cross_entropy", "binary_cross_entropy"):
            assert training_loss(loss, torch.empty(8, 5, device="meta"), soft, 0.1).shape == ()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_a_training_step_takes_the_loss_of_the_mixed_batch(loss: Any, channels_last: bool) -> None:
    backbone = Sees()
    settings = {"loss": loss, "label_smoothing": 0.2, "channels_last": channels_last}
    classifier = make(backbone, mixup=0.5, cutmix=0.5, **settings)
    images, labels = batch()
    torch.manual_seed(3)
    result = classifier.training_step((images, labels), 0)
    torch.manual_seed(3)
    mixed, soft = Mixing(0.5, 0.5, 10)(classifier.normalize(images), labels)
    assert torch.equal(backbone.inputs, mixed)
    assert not torch.equal(mixed, classifier.normalize(images))
    logits, smooth = mixed.flatten(1)[:, :10], 0.8 * soft + 0.02
    if loss == "cross_entropy":
        expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    else:
        probabilities = logits.sigmoid()
        expected = -(smooth * probabilities.log() + (1 - smooth) * (1 - probabilities).log()).mean()
    torch.testing.assert_close(result, expected)


def test_a_mixed_batch_stays_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    roll = Tensor.roll
    # As on CUDA, where roll gives N×C×H×W memory whatever it is given.
    monkeypatch.setattr(Tensor, "roll", lambda *arguments: roll(*arguments).contiguous())
    backbone = Sees()
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    classifier = Classifier(backbone, SGD, mixup=1.0, num_classes=10, mean=[0.5] * 3, std=[0.5] * 3)
    classifier.training_step((images, torch.arange(4)), 0)
    assert backbone.inputs.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_mixed_or_drawn_unless_asked_for() -> None:
    backbone = Sees()
    classifier = make(backbone)
    images, labels = batch()
    before = torch.get_rng_state()
    classifier.training_step((images, labels), 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(backbone.inputs, classifier.normalize(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup": -0.1}, "mixup must be at least 0 and finite, not -0.1"),
        ({"cutmix": -1.0}, "cutmix must be at least 0 and finite, not -1.0"),
        ({"cutmix": float("nan")}, "cutmix must be at least 0 and finite, not nan"),
        ({"mixup": float("inf")}, "mixup must be at least 0 and finite, not inf"),
        ({"mixup": 0.2, "num_classes": 1}, "mixup needs labels to mix, but there is only one class"),
    ],
)
def test_values_that_can_not_be_mixed_with_are_refused(settings: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "num_classes": 10}
    with pytest.raises(ValueError, match=message):
        Mixing(**{**defaults, **settings})


def last(directory: Path) -> dict[str, Any]:
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_run_repeats_its_draws_resumed_or_started_again(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(NET)
    for run in ("one", "two"):
        assert lightning(*FIT, "--run_dir", run).status == 0
    crashed = lightning(*FIT, "--run_dir", "resumed", "--trainer.callbacks", "mynet.Crash")
    assert crashed.status == 1
    assert "crashed" in crashed.err
    assert last(tmp_path / "resumed")["global_step"] == 28  # in the middle of the second epoch
    resumed = lightning("fit", "--ckpt_path", "resumed", "--trainer.callbacks", "null")
    assert resumed.status == 0, resumed.err
    whole = last(tmp_path / "one")
    for run in ("two", "resumed"):
        again = last(tmp_path / run)
        assert again["global_step"] == whole["global_step"] > 50
        for name, value in whole["state_dict"].items():
            assert torch.equal(again["state_dict"][name], value), (run, name)
    assert lightning(*FIT[: FIT.index("--model.mixup")], "--run_dir", "without").status == 0
    plain = last(tmp_path / "without")["state_dict"]
    assert not torch.equal(plain["backbone.6.weight"], whole["state_dict"]["backbone.6.weight"])


def test_a_wrong_alpha_is_an_error_that_names_the_key(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(NET)
    done = lightning(*FIT, "--model.mixup", "-1")
    assert done.status == 2
    assert "model.mixup: mixup must be at least 0 and finite, not -1.0" in done.err
