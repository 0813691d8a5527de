from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from resnet18 import Classifier
from resnet18.losses import training_loss

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_binary_cross_entropy_asks_of_each_class_on_its_own(smoothing: float) -> None:
    on, off = 1 - smoothing + smoothing / 3, smoothing / 3
    targets = torch.tensor([[on, off, off], [off, on, off]])
    probabilities = 1 / (1 + (-LOGITS).exp())
    expected = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).sum() / 6
    loss = training_loss("binary_cross_entropy", LOGITS, torch.tensor([0, 1]), smoothing)
    torch.testing.assert_close(loss, expected)
    soft = training_loss("binary_cross_entropy", LOGITS, torch.eye(3)[:2], smoothing)
    torch.testing.assert_close(soft, expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("labels", [torch.tensor([2, 1]), torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])])
def test_logits_of_half_precision_are_weighed_in_single(loss: Any, labels: torch.Tensor) -> None:
    half = LOGITS.bfloat16()
    result = training_loss(loss, half, labels, 0.1)
    assert result.dtype == torch.float32
    assert torch.equal(result, training_loss(loss, half.float(), labels, 0.1))


def test_hard_labels_are_not_looked_at() -> None:
    # A meta tensor has no values: whoever waits for one fails.
    labels = torch.empty(2, dtype=torch.long, device="meta")
    assert training_loss("binary_cross_entropy", LOGITS.to("meta"), labels, 0.1).shape == ()


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "loss must be cross_entropy or binary_cross_entropy, not hinge"),
        ({"label_smoothing": 1.5}, "label_smoothing must be at least 0 and below 1, not 1.5"),
    ],
)
def test_values_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(nn.Flatten(), SGD, num_classes=3, mean=[0.5], std=[0.25], **settings)
