"""What a network is shown: images of the kind it expects, in a memory format that its backward pass can bear."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from resnet18.errors import counted


def checked_statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel as Python's numbers, also from NumPy's.

    Raises:
        ValueError: If they can't be that.
    """
    if len(mean) != len(std):
        raise ValueError(f"mean has {counted(len(mean), 'channel')} and std {len(std)}")
    if not all(map(math.isfinite, mean)):
        raise ValueError(f"mean must be finite, not {list(mean)}")
    if not all(0 < value < math.inf for value in std):
        raise ValueError(f"std must be above 0 and finite, not {list(std)}")
    return list(map(float, mean)), list(map(float, std))


def check_pixels(images: Any, input_size: Sequence[int] | None, means: int) -> None:
    """Refuses what is not a batch of raw pixels.

    Args:
        images: Should be uint8, N×C×H×W.
        input_size: (C, H, W), of which only C counts here.
        means: Channels with a mean of their own; where only that is known and it is 1, C may be any.

    Raises:
        TypeError: For another kind or another dtype.
        ValueError: For another shape.
    """
    channels = input_size[0] if input_size else means if means > 1 else None
    wanted = f"N×{channels or 'C'}×H×W"
    if not isinstance(images, Tensor):
        kind, hint = f"{type(images).__module__}.{type(images).__qualname__}".removeprefix("builtins."), ""
        if isinstance(images, numpy.ndarray):
            kind, hint = f"{kind} of {images.dtype}", ": torch.from_numpy(images) makes one"
        raise TypeError(f"expected a torch.Tensor of uint8 pixels, {wanted}, got a {kind}{hint}")
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels, got {images.dtype}; the network normalises them itself")
    if images.ndim != 4 or (channels is not None and images.shape[1] != channels):
        hint = ": images[None] is a batch of one" if images.ndim == 3 else ""
        if images.ndim == 4 and images.shape[3] == channels:
            hint = ": images.permute(0, 3, 1, 2) is one"
        raise ValueError(f"expected a batch of {wanted}, got {'×'.join(map(str, images.shape))}{hint}")


def check_size(images: Tensor, input_size: Sequence[int] | None) -> None:
    """Raises ValueError for N×C×H×W images of another H or W than ``input_size``, (C, H, W), if that is known."""
    if input_size is not None and images.shape[2:] != tuple(input_size[1:]):
        height, width = input_size[1:]
        raise ValueError(
            f"expected images of {height}×{width} pixels, got {images.shape[2]}×{images.shape[3]}: "
            f"torchvision.transforms.v2.functional.resize(images, [{height}, {width}]) resizes them, and "
            "model.backbone(model.normalize(images)) takes them as they are"
        )


def memory_format(backbone: nn.Module, channels_last: bool) -> torch.memory_format:
    """That of a network's weights and images: channels-last if wanted, and if oneDNN can train it so on this CPU."""
    # torch 2.14.1 (oneDNN 3.12): the weights' gradient of a strided 1×1 convolution copies its N×H×W×C input by whole
    # vectors, and writes past its workspace if C is smaller than one: 8 float32 with AVX2, 16 with AVX-512. With one
    # thread the heap is corrupt then ("corrupted double-linked list"), with two they wait for each other for ever; C of
    # 1 or in groups, N×C×H×W memory, other kernels and stride 1 are sound. Seen on an AMD EPYC with AVX2 for C from 2
    # to 7; for AVX-512 see https://github.com/uxlfoundation/oneDNN/issues/6035.
    lanes = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    breaks = any(
        one.kernel_size == (1, 1) and max(one.stride) > 1 and one.groups == 1 and one.in_channels < lanes
        for one in backbone.modules()
        if isinstance(one, nn.Conv2d)
    )
    return torch.channels_last if channels_last and not breaks else torch.contiguous_format


def laid_out(images: Tensor, layout: torch.memory_format) -> Tensor:
    """N×C×H×W images in a memory format, copied if they lie in another."""
    if images.shape[1] == 1 and layout is torch.contiguous_format:
        # Of one channel both formats are alike to contiguous(); a convolution goes by the strides, and would lay out
        # all that follows it so.
        return images.squeeze(1).contiguous().unsqueeze(1)
    return images.contiguous(memory_format=layout)
