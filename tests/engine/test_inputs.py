"""Input images: which are refused, with what advice, and their memory format."""

from typing import Any

import numpy
import pytest
import torch
from torch import nn

from resnet18.engine.inputs import check_pixels, laid_out, memory_format

PIXELS = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "advice"),
    [
        (PIXELS.numpy(), "got a numpy.ndarray of uint8: torch.from_numpy(images) makes one"),
        ([1], "expected a torch.Tensor of uint8 pixels, N×3×H×W, got a list"),
        (PIXELS / 255, "expected uint8 pixels, got torch.float32; the network normalises them itself"),
        (PIXELS[0], "got 3×8×8: images[None] is a batch of one"),
        (PIXELS.permute(0, 2, 3, 1), "got 2×8×8×3: images.permute(0, 3, 1, 2) is one"),
        (PIXELS[:, :1], "expected a batch of N×3×H×W, got 2×1×8×8"),
    ],
)
def test_anything_but_a_batch_of_pixels_is_refused_with_advice(images: Any, advice: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        check_pixels(images, (3, 8, 8), means=3)
    assert str(error.value).endswith(advice)


def test_any_number_of_channels_passes_if_only_one_mean_is_known() -> None:
    check_pixels(PIXELS, None, means=1)
    with pytest.raises(ValueError, match="expected a batch of N×4×H×W"):
        check_pixels(PIXELS, None, means=4)


@pytest.mark.parametrize(
    ("layer", "safe"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),
        (nn.Conv2d(64, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
        (nn.Conv2d(4, 8, 1, stride=2, groups=2), True),
    ],
    ids=["few channels", "many", "without stride", "another kernel", "groups"],
)
def test_channels_last_is_avoided_where_onednn_would_write_past_its_memory(layer: nn.Module, safe: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), layer)
    assert memory_format(network, channels_last=True) == (torch.channels_last if safe else torch.contiguous_format)
    assert memory_format(network, channels_last=False) == torch.contiguous_format


def test_images_of_one_channel_have_the_strides_of_their_layout() -> None:
    images = torch.from_numpy(numpy.zeros((2, 8, 8, 1))).permute(0, 3, 1, 2)
    assert laid_out(images, torch.contiguous_format).stride() == (64, 64, 8, 1)
    assert laid_out(PIXELS, torch.channels_last).is_contiguous(memory_format=torch.channels_last)
