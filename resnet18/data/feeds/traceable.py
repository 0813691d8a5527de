"""The evaluation view of images in operations that every exporter has, for a graph that takes images of any size.

torchvision's antialiased resize of uint8 images, after Pillow's, is two products with matrices of weights, and after
each the pixels are rounded. The weights are whole multiples of 2⁻¹⁴ to 2⁻¹⁶, so every sum is exact in float32, and any
runtime gets the same pixels. They are torchvision's, bit for bit, where an image shrinks to a quarter or less far;
where it shrinks more, fewer than two in a hundred differ, by one. On x86 CPUs without AVX2 torchvision rounds its
bilinear resize only once, and more differ.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from resnet18.data.feeds.decode import scaled_side
from resnet18.engine.inputs import Interpolation

MOST_BITS = 16  # of a weight; see _resized


def centres(images: Tensor, size: Sequence[int], share: float, interpolation: Interpolation) -> Tensor:
    """What :func:`~resnet18.data.feeds.decode.centre` gives of each: uint8 N×C×H×W → uint8 N×C×height×width.

    Sizes are computed as tensors and without a branch, so that H and W stay free in a graph.
    """
    height, width = (torch.full((), side, dtype=torch.float64) for side in images.shape[2:])
    tall, wide = (scaled_side(side, share) for side in size)
    across = _weights(images.shape[3], (tall * width / height).floor().clamp(min=wide), size[1], interpolation)
    down = _weights(images.shape[2], (wide * height / width).floor().clamp(min=tall), size[0], interpolation)
    return _resized(_resized(images.float(), across).mT, down).mT.to(torch.uint8)


def _resized(pixels: Tensor, weights: Tensor) -> Tensor:
    """Whole pixels, …×A, times weights, B×A: whole pixels again, …×B."""
    # From their middle on, for no sum of 128 · 2¹⁶ and of negative weights' share reaches 2²⁴, where float32 ends to
    # hold every whole number.
    sums = (pixels - 128) @ weights.mT + 128 * weights.sum(1)
    return (sums + 0.5).floor().clamp(0, 255)


def _weights(length: int, scaled: Tensor, kept: int, interpolation: Interpolation) -> Tensor:
    """What each of ``length`` pixels adds to those in the middle of ``scaled`` ones: float32 kept×length."""
    first = ((scaled - kept) / 2).round()  # half to even, as torchvision's center_crop
    # And the pixel at the edge: it may have the largest weight of all, by which torchvision chooses the bits.
    rows = torch.cat([torch.zeros(1), torch.arange(kept) + first]).unsqueeze(1)
    columns, coarser = torch.arange(length, dtype=torch.float64), torch.full((), length).maximum(scaled)
    # Between the pixels' centres, in pixels of the coarser of the two images; exact but for the last division.
    distance = ((2 * columns + 1) * scaled - (2 * rows + 1) * length).abs() / (2 * coarser)
    if interpolation == "bilinear":
        weights = (1 - distance).clamp(min=0)
    else:  # Keys' kernel with a = -0.5
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    weights = weights / weights.sum(1, keepdim=True)
    unit = torch.exp2(torch.log2(32767.5 / weights.max()).floor().clamp(max=MOST_BITS))  # so that they fit an int16
    return ((weights * unit).round() / unit)[1:].float()
