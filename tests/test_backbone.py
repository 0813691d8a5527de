"""The network against the printed structure it was written from, and against torchvision's as an oracle."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from resnet18 import ResNet, resnet18
from resnet18.backbone import BasicBlock

PRINTED = Path(__file__).with_name("resnet18_printed.txt")


def twins() -> tuple[ResNet, nn.Module]:
    """Ours and torchvision's, with the same weights and batch-norm statistics, none of them at their initial values."""
    torch.manual_seed(0)
    oracle = torchvision.models.resnet18(weights=None)
    for module in oracle.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert isinstance(tensor, Tensor)
                tensor.uniform_(0.5, 1.5)
    ours = resnet18()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    return ours, oracle


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_equal_states(ours: nn.Module, oracle: nn.Module) -> None:
    expected = oracle.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_prints_the_given_structure_line_for_line() -> None:
    assert str(resnet18()).splitlines() == PRINTED.read_text().splitlines()


def test_has_11_689_512_parameters() -> None:
    assert sum(parameter.numel() for parameter in resnet18().parameters()) == 11_689_512


def test_state_dict_has_torchvisions_names_order_and_shapes() -> None:
    expected = torchvision.models.resnet18(weights=None).state_dict()
    given = resnet18().state_dict()
    assert [(name, value.shape, value.dtype) for name, value in given.items()] == [
        (name, value.shape, value.dtype) for name, value in expected.items()
    ]


@pytest.mark.parametrize("zero_init_residual", [False, True])
def test_the_same_seed_draws_torchvisions_weights(zero_init_residual: bool) -> None:
    torch.manual_seed(7)
    oracle = torchvision.models.resnet18(weights=None, zero_init_residual=zero_init_residual)
    torch.manual_seed(7)
    assert_equal_states(resnet18(zero_init_residual=zero_init_residual), oracle)


def test_weights_load_strictly_in_both_directions() -> None:
    torch.manual_seed(1)
    ours, oracle = resnet18(), torchvision.models.resnet18(weights=None)
    own = copy.deepcopy(ours.state_dict())
    ours.load_state_dict(oracle.state_dict(), strict=True)
    assert_equal_states(ours, oracle)
    oracle.load_state_dict(own, strict=True)
    assert all(torch.equal(value, own[name]) for name, value in oracle.state_dict().items())


@pytest.mark.parametrize("train", [False, True])
def test_logits_are_torchvisions_bit_for_bit(train: bool) -> None:
    ours, oracle = twins()
    batch = images(2, 3, 65, 47)
    with torch.no_grad():
        logits, expected = ours.train(train)(batch), oracle.train(train)(batch)
    assert logits.shape == (2, 1000)
    assert torch.equal(logits, expected)


def test_a_training_step_is_torchvisions_bit_for_bit() -> None:
    ours, oracle = twins()
    before = copy.deepcopy(ours.state_dict())
    for network in (ours, oracle):
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        F.cross_entropy(network(images(2, 3, 64, 64)), torch.tensor([3, 999])).backward()
        optimizer.step()
    gradients = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    for name, parameter in ours.named_parameters():
        gradient, expected = parameter.grad, gradients[name]
        assert gradient is not None, name
        assert expected is not None, name
        assert torch.equal(gradient, expected), name
    assert_equal_states(ours, oracle)
    assert not any(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_cifar_stem_keeps_the_size_up_to_the_first_stage(in_channels: int) -> None:
    network = resnet18(num_classes=10, in_channels=in_channels, stem="cifar", width=8)
    batch = images(2, in_channels, 32, 32)
    assert [tuple(stage.shape) for stage in network.stages(batch)] == [
        (2, 8, 32, 32),
        (2, 16, 16, 16),
        (2, 32, 8, 8),
        (2, 64, 4, 4),
    ]
    assert network.embed(batch).shape == (2, 64)
    assert network(batch).shape == (2, 10)


def test_the_imagenet_stem_quarters_the_size() -> None:
    stages = resnet18(width=8).stages(images(2, 3, 64, 64))
    assert [tuple(stage.shape) for stage in stages] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]


def test_forward_is_the_last_layer_on_the_embedding_and_that_the_last_stage_pooled() -> None:
    torch.manual_seed(0)
    network = resnet18(num_classes=10, width=8).eval()
    batch = images(3, 3, 64, 64)
    embedding = network.embed(batch)
    assert torch.equal(network(batch), network.fc(embedding))
    torch.testing.assert_close(embedding, network.stages(batch)[-1].mean((2, 3)))


def test_zero_init_starts_every_block_as_its_shortcut() -> None:
    for block in resnet18(zero_init_residual=True, width=8).modules():
        if isinstance(block, BasicBlock):
            x = images(2, block.conv1.in_channels, 8, 8)
            shortcut = x if block.downsample is None else block.downsample(x)
            assert torch.equal(block(x), shortcut.relu())


@pytest.mark.parametrize("name", ["num_classes", "in_channels", "width"])
@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_1_is_refused(name: str, count: int) -> None:
    settings: dict[str, Any] = {name: count}
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, not {count}$"):
        ResNet(**settings)


def test_an_unknown_stem_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="stem must be one of imagenet, cifar, not 'tiny'"):
        resnet18(stem="tiny")  # pyrefly: ignore[bad-argument-type]


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((2, 1, 32, 32), "2×1×32×32"),
        ((3, 32, 32), "3×32×32"),
        ((2, 3, 32), "2×3×32"),
        ((2, 3, 1, 32, 32), "2×3×1×32×32"),
    ],
)
def test_a_batch_of_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...], shown: str) -> None:
    network = resnet18(width=8)
    for call in (network, network.embed, network.stages):
        with pytest.raises(ValueError, match=f"expected a batch of N×3×H×W, got {shown}$"):
            call(images(*shape))
