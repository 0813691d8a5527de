"""What ``lightning check`` asks of a network is asked of any task, by the model's own loss and for any targets."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from resnet18 import Classifier
from resnet18.commands.check_network import (
    Network,
    Trace,
    gradients,
    independence,
    loss_at_start,
    one_batch,
    overfit,
    parameter_groups,
)


class Tags(Classifier):
    """Several labels an image, a loss with a parameter of its own, and a step that gives a dict."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = nn.Parameter(torch.ones(()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        images, targets = batch
        loss = F.binary_cross_entropy_with_logits(self(images).float() * self.temperature, targets.float())
        self.log("train/tags", loss)
        return {"loss": loss}


class Standstill(Tags):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        return super().training_step((batch[0] * 0, batch[1]), batch_idx)["loss"]


def network_of(kind: type[Classifier]) -> Network:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    model = kind(
        backbone,
        optimizer=lambda groups: SGD(groups, lr=0.5, momentum=0.9, weight_decay=1e-4),
        num_classes=3,
        mean=[0.5],
        std=[0.25],
        input_size=(1, 6, 6),
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return Network(model, trainer, single_label=kind is Classifier)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 1, 6, 6), dtype=torch.uint8, generator=draws)
    return images, torch.randint(2, (16, 3), dtype=torch.uint8, generator=draws)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_several_labels_an_image_and_a_custom_training_step(batch: tuple[Tensor, Tensor]) -> None:
    network = network_of(Tags)
    start = loss_at_start(network, [batch, batch])
    assert (start.level, start.numbers[:2]) == ("skip", "0.")
    assert "of 32 images" in start.numbers
    trace = overfit(network, batch, steps=200)
    assert one_batch(trace, 16, 16).level == "ok", trace
    assert trace.losses[-1] < trace.losses[0] / 10
    assert "top-1" not in one_batch(trace, 16, 16).numbers
    reached = gradients(trace, network)
    assert reached.level == "ok"
    assert reached.numbers.startswith("reach 5 of 5 trainable tensors")
    assert independence(network, batch[0]).level == "ok"
    groups = parameter_groups(network)
    assert groups.level == "ok"
    assert [line.split(": ")[1].split(",")[0] for line in groups.details] == ["2 tensors", "3 tensors"]


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_loss_that_does_not_fall_is_wrong(batch: tuple[Tensor, Tensor]) -> None:
    network = network_of(Standstill)
    finding = one_batch(overfit(network, batch, steps=10), 16, 16)
    assert finding.level == "wrong"


@pytest.mark.parametrize(
    ("last", "advice"),
    [(9.0, "it diverges"), (2.303, "it hardly moves"), (2.2, "it hardly moves"), (1.2, "it is not overfit yet")],
)
def test_the_advice_follows_how_far_the_loss_moved(last: float, advice: str) -> None:
    finding = one_batch(Trace("SGD", losses=[2.302, last], top1=0.1), 16, 16)
    assert (finding.level, advice in " ".join(map(str, vars(finding).values()))) == ("wrong", True), finding


def test_class_numbers_are_compared_with_knowing_nothing(batch: tuple[Tensor, Tensor]) -> None:
    network = network_of(Classifier)
    images, labels = batch[0], torch.arange(16) % 3
    assert f"{math.log(3):.3f} = ln 3" in loss_at_start(network, [(images, labels)]).numbers
    assert "top-1 100 %" in one_batch(overfit(network, (images, labels), steps=200), 16, 16).numbers


def test_one_image_has_no_others_to_depend_on(batch: tuple[Tensor, Tensor]) -> None:
    assert independence(network_of(Classifier), batch[0][:1]).level == "skip"
