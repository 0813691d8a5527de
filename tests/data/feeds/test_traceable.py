"""The view that goes into an exported graph, beside the one that validation sees."""

from itertools import product

import numpy
import pytest
import torch
from conftest import picture
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from resnet18.data.feeds.decode import centre
from resnet18.data.feeds.traceable import centres
from resnet18.engine.inputs import Interpolation

# Where torchvision resizes uint8 in whole numbers; elsewhere it computes in float32, and rounds once.
WHOLE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
KINDS: tuple[Interpolation, ...] = ("bilinear", "bicubic")


def photographs() -> list[Tensor]:
    """uint8 C×H×W: two of 427×640, and parts of them of odd sizes, one small and one thin."""
    whole = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    return [*whole, whole[0][:, :211, 33:190], whole[1][:1, 100:147, 200:253], whole[1][:, 200:207, :128]]


@pytest.mark.parametrize("interpolation", KINDS)
@pytest.mark.parametrize(("size", "share"), [((128, 128), 1.0), ((224, 224), 0.875), ((112, 160), 0.9), ((400, 64), 1)])
def test_it_is_torchvisions_bit_for_bit(size: tuple[int, int], share: float, interpolation: Interpolation) -> None:
    for image in photographs():
        expected = centre(image, size, share, interpolation).int()
        found = centres(image[None], size, share, interpolation)
        assert found.dtype == torch.uint8
        apart = (found[0].int() - expected).abs()
        assert apart.max() <= (0 if WHOLE or interpolation == "bicubic" else 1)


@pytest.mark.parametrize("interpolation", KINDS)
def test_an_image_that_shrinks_a_lot_differs_by_one_in_few_pixels(interpolation: Interpolation) -> None:
    for image, size in product(photographs()[:2], [(16, 16), (64, 64)]):
        apart = (
            centres(image[None], size, 0.875, interpolation)[0].int() - centre(image, size, 0.875, interpolation)
        ).abs()
        assert apart.max() <= 1
        if WHOLE or interpolation == "bicubic":
            assert (apart > 0).float().mean() < 0.02


@pytest.mark.parametrize("interpolation", KINDS)
def test_an_image_of_the_size_is_left_as_it_is(interpolation: Interpolation) -> None:
    noise = torch.from_numpy(numpy.random.default_rng(0).integers(0, 256, (4, 3, 33, 48), dtype=numpy.uint8))
    assert torch.equal(centres(noise, (33, 48), 1.0, interpolation), noise)
    assert torch.equal(centres(noise, (28, 28), 28 / 33, interpolation), noise[:, :, 2:30, 10:38])  # cut out alone


def test_it_is_close_to_pillows() -> None:
    image = picture(1, 200, 150)
    pillow = numpy.array(image.resize((80, 60), Image.Resampling.BILINEAR))[:, 10:70]
    found = centres(torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None], (60, 60), 1.0, "bilinear")
    assert numpy.abs(found[0].permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1
