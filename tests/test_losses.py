"""The losses and their place in a run: those with a name, your own, and MixUp and CutMix."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from resnet18 import Classifier, load_run
from resnet18.losses import NAMED, BinaryCrossEntropy, Mixing
from resnet18.storage.records import read_metrics

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_binary_cross_entropy_decides_on_each_class_by_itself(smoothing: float) -> None:
    on, off = 1 - smoothing + smoothing / 3, smoothing / 3
    targets = torch.tensor([[on, off, off], [off, on, off]])
    probabilities = 1 / (1 + (-LOGITS).exp())
    expected = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).sum() / 6
    loss = BinaryCrossEntropy(smoothing)
    for given in (torch.tensor([0, 1]), torch.eye(3)[:2], torch.eye(3, dtype=torch.uint8)[:2]):
        torch.testing.assert_close(loss(LOGITS, given), expected)


def test_the_values_of_targets_are_not_looked_at() -> None:
    # A meta tensor has no values: waiting for one fails.
    targets = torch.empty(2, dtype=torch.long, device="meta")
    assert BinaryCrossEntropy(0.1)(LOGITS.to("meta"), targets).shape == ()


@pytest.mark.parametrize("loss", list(NAMED))
def test_logits_of_half_precision_are_weighed_in_single(loss: Any) -> None:
    classifier = make(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), loss=loss, label_smoothing=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier(batch()[0]).dtype == torch.bfloat16
        assert classifier.training_step(batch(), 0).dtype == torch.float32


def test_evaluation_stays_cross_entropy_and_predictions_softmax() -> None:
    torch.manual_seed(0)
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
        partial(SGD, lr=0.1),
        loss="binary_cross_entropy",
        num_classes=3,
        mean=[0.5],
        std=[0.25],
    )
    images = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(6) % 3
    loader = DataLoader(TensorDataset(images, labels, torch.arange(6)), batch_size=4)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with torch.no_grad():
        logits = classifier(images)
    (scores,) = trainer.validate(classifier, loader, verbose=False)
    assert scores["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    batches: Any = trainer.predict(classifier, loader)
    torch.testing.assert_close(torch.cat([one.probabilities for one in batches]), logits.softmax(1).amax(1))


FOCAL = """
from torch import Tensor, nn
from torch.nn import functional as F

class Focal(nn.Module):
    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, targets, reduction="none")
        return -((1 - log_p.exp()) ** self.gamma * log_p).mean()

class Each(nn.CrossEntropyLoss):
    def __init__(self) -> None:
        super().__init__(reduction="none")
"""


def test_a_loss_of_your_own_trains_validates_and_comes_back(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "myloss.py").write_text(FOCAL)
    run = (*DROPOUT_RUN, "--trainer.max_epochs", "1")
    for gamma in ("0", "3"):
        done = lightning(*run, "--model.loss", "myloss.Focal", "--model.loss.gamma", gamma, "--run_dir", gamma)
        assert done.status == 0, done.err
    assert lightning(*run, "--run_dir", "plain").status == 0
    losses = {one: [row["train/loss"] for row in read_metrics(Path(one)) if "train/loss" in row] for one in "03"}
    plain = [row["train/loss"] for row in read_metrics(Path("plain")) if "train/loss" in row]
    assert losses["0"] == pytest.approx(plain, rel=1e-4)  # without a gamma it is cross-entropy
    assert max(losses["3"]) < min(plain)
    assert lightning("test", "--ckpt_path", "3").status == 0
    loaded = load_run("3")
    assert (type(loaded.model.loss).__name__, loaded.model.loss.gamma) == ("Focal", 3.0)
    loaded.data.setup("test")
    scored = [
        (F.cross_entropy(loaded.model(images), labels, reduction="none"), len(labels))
        for images, labels, *_ in loaded.data.test_dataloader()
    ]
    errors = torch.cat([losses for losses, _ in scored]).detach()
    expected = ((1 - (-errors).exp()) ** 3 * errors).mean().item()
    assert loaded.evaluations[-1]["test/loss"] == pytest.approx(expected, rel=1e-3)


def test_a_loss_of_torchs_takes_its_own_arguments(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    run = (*DROPOUT_RUN, "--trainer.max_epochs", "1")
    own = ("--model.loss", "torch.nn.CrossEntropyLoss", "--model.loss.label_smoothing", "0.4")
    for name, options in (("own", own), ("named", ("--model.label_smoothing", "0.4"))):
        done = lightning(*run, *options, "--run_dir", name)
        assert done.status == 0, done.err
    one, other = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("own", "named"))
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.loss", "cross_entropi"), "model.loss: expected 'cross_entropy', 'binary_cross_entropy', not"),
        (("--model.loss", "myloss.Foca"), "model.loss: myloss has no Foca; did you mean Focal?"),
        (("--model.loss", "myloss.Focal", "--model.loss.gama", "1"), "model.loss.gama: Focal takes no gama; did you"),
        (("--model.loss", "myloss.Each"), "model.loss: Each gives a tensor of 16, and not one number"),
        (
            ("--model.loss", "torch.nn.MSELoss"),
            "model.loss: MSELoss fails for logits of 16×10 and targets of 16, int",
        ),
        (("--model.label_smoothing", "1.5"), "model.label_smoothing: "),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_by_its_key(
    options: tuple[str, ...], message: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "myloss.py").write_text(FOCAL)
    done = lightning(*DROPOUT_RUN, "--trainer.max_epochs", "1", *options)
    assert done.status == 2, done.out
    assert message in done.err
    assert not Path("runs").exists()


def test_label_smoothing_beside_a_loss_of_your_own_is_said_to_be_unused(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "myloss.py").write_text(FOCAL)
    options = ("--model.loss", "myloss.Focal", "--model.label_smoothing", "0.1", "--trainer.fast_dev_run", "1")
    done = lightning(*DROPOUT_RUN, *options)
    assert done.status == 0, done.err
    assert "label_smoothing 0.1 is not used: it is for cross_entropy and binary_cross_entropy, and the loss" in done.err


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
    # A meta tensor has no values: looking at one fails.
    images, labels = torch.empty(8, 3, 32, 32, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    for _ in range(10):
        mixed, soft = Mixing(*alphas, num_classes=5)(images, labels)
        assert (mixed.shape, soft.shape, soft.dtype) == (images.shape, (8, 5), torch.float32)
        for loss in NAMED.values():
            assert loss(label_smoothing=0.1)(torch.empty(8, 5, device="meta"), soft).shape == ()


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
    for value in ("-1", "nan", "inf"):
        done = lightning(*FIT, "--model.mixup", value)
        assert done.status == 2
        assert done.err.startswith("lightning fit: model.mixup: ")
