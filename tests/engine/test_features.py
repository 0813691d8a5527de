"""The vector before the last layer, of any network."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from resnet18 import ResNet
from resnet18.engine.features import kept_features, last_map


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


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (ResNet(10, width=8).eval(), (3, 64, 2, 2)),
        (mobilenet_v3_small(num_classes=4).eval(), (3, 576, 2, 2)),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(19220, 2)), (3, 5, 62, 62)),
    ],
    ids=["ResNet", "MobileNet", "Sequential"],
)
def test_the_last_map_is_that_before_the_pooling(network: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.randn(3, 3, 64, 64)
    with last_map(network) as kept:
        network(images[:1])
        network(images)
    (found,) = kept
    assert found.shape == shape
    assert found.requires_grad
    if isinstance(network, ResNet):
        assert torch.equal(found.mean((2, 3)), network.embed(images))
    with last_map(nn.Sequential(nn.Flatten(), nn.Linear(12288, 2))) as kept:
        pass
    network(images)
    assert kept == []
