"""Checks of a network's input images, and a memory format that is safe for its backward pass."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn

from resnet18.errors import counted

Interpolation = Literal["bilinear", "bicubic"]  # of images that are resized, with antialiasing
# What a model takes from its data, and a checkpoint carries: enough to treat any photograph as in validation.
DESCRIBED = ("num_classes", "mean", "std", "class_names", "input_size", "eval_share", "interpolation")


def checked_statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel as Python's numbers; ValueError if they can't be that."""
    if len(mean) != len(std):
        raise ValueError(f"mean has {counted(len(mean), 'channel')} and std {len(std)}")
    if not all(map(math.isfinite, mean)):
        raise ValueError(f"mean must be finite, not {list(mean)}")
    if not all(0 < value < math.inf for value in std):
        raise ValueError(f"std must be above 0 and finite, not {list(std)}")
    return list(map(float, mean)), list(map(float, std))


def check_pixels(images: Any, input_size: Sequence[int] | None, means: int) -> None:
    """TypeError or ValueError unless images are uint8, N×C×H×W, with the C of ``input_size``, (C, H, W)."""
    # A single mean goes for any number of channels.
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
    """ValueError for N×C×H×W images of another H or W than ``input_size``, (C, H, W), if that is known."""
    if input_size is not None and images.shape[2:] != tuple(input_size[1:]):
        height, width = input_size[1:]
        raise ValueError(
            f"expected images of {height}×{width} pixels, got {images.shape[2]}×{images.shape[3]}: "
            f"torchvision.transforms.v2.functional.resize(images, [{height}, {width}]) resizes them, and "
            "model.backbone(model.normalize(images)) takes them as they are"
        )


def memory_format(backbone: nn.Module, channels_last: bool) -> torch.memory_format:
    """The memory format of a network's weights and images: channels-last if wanted and safe on this CPU."""
    # torch 2.14.1 (oneDNN 3.12): the weights' gradient of a strided 1×1 convolution copies its N×H×W×C input by whole
    # vectors, and writes past its workspace if C is smaller than one: 8 float32 with AVX2, 16 with AVX-512. With one
    # thread that corrupts the heap ("corrupted double-linked list"), with two they wait for each other forever; C of
    # 1 or in groups, N×C×H×W memory, other kernels and stride 1 are safe. Seen on an AMD EPYC with AVX2 for C from 2
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
        # With one channel contiguous() takes both formats for the same, but a convolution goes by the strides, and
        # would make all that follows it channels-last.
        return images.squeeze(1).contiguous().unsqueeze(1)
    return images.contiguous(memory_format=layout)
