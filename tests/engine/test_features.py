"""The vector before the last layer, of any network."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from resnet18 import ResNet
from resnet18.engine.features import kept_features


def test_they_are_those_that_the_network_itself_gives() -> None:
    network, images = ResNet(10, width=8).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad(), kept_features(network) as kept:
        network(images)
        network(images[:1])
    assert torch.equal(kept[0], network.embed(images))
    assert torch.equal(kept[1], network.embed(images[:1]))
    network(images)
    assert len(kept) == 2  # the hook is gone


@pytest.mark.parametrize(
    ("network", "width"),
    [(mobilenet_v3_small(num_classes=4), 1024), (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), 3072)],
)
def test_any_network_has_them(network: nn.Module, width: int) -> None:
    with torch.no_grad(), kept_features(network.eval()) as kept:
        network(torch.randn(2, 3, 32, 32))
    assert kept[0].shape == (2, width)
