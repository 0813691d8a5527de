"""The augmentations, and their batched form: a few gathers on uint8 pixels.

Translation and mirroring are the standard augmentation of small images (He et al., 2015, section 4.2, with zero
padding). Here the border is reflected, as in the fast CIFAR-10 recipes (Page, 2018; Jordan,
https://arxiv.org/abs/2404.00498), by the row and column numbers of the gather: no padded image is stored. All draws
come from a generator on the device of the images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

RATIO = (3 / 4, 4 / 3)  # of a random crop's width to its height, as in torchvision's RandomResizedCrop
Policy = Literal["none", "trivial", "rand"]


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of a training image, in this order; by default none."""

    crop: Sequence[float] | None = None  # range of a random crop's share of the area, https://arxiv.org/abs/1409.4842
    translate: int = 0  # largest random shift in pixels; the border is reflected
    flip: bool = False  # left and right, half of the time
    policy: Policy = "none"  # https://arxiv.org/abs/2103.10158 or https://arxiv.org/abs/1909.13719; streamed feed only
    magnitude: int = 9  # of RandAugment, 0 to 30
    erasing: float = 0.0  # probability, https://arxiv.org/abs/1708.04896; streamed feed only
    cutout: int = 0  # side in pixels of a square centred anywhere, https://arxiv.org/abs/1708.04552
    fill: Sequence[int] = (0,)  # the colour painted over, 0 to 255 for each channel

    def __post_init__(self) -> None:
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be two shares of the area, above 0 and up to 1, not {self.crop}")
        if self.crop is not None and self.translate:
            raise ValueError("translate and crop exclude each other: a random crop shifts the image already")

    @property
    def one_by_one(self) -> bool:
        """Whether an augmentation works on one image at a time."""
        return self.policy != "none" or self.erasing > 0

    def gather(self, images: Tensor, index: Tensor, colour: Tensor, generator: torch.Generator) -> Tensor:
        """The images (uint8 N×H×W×C) that ``index`` (int64 B) chooses, augmented: uint8 B×H×W×C, contiguous."""
        # `colour` is `fill` as uint8 C on the device of `images`: sent there each time, it would make the host wait.
        if self.crop is not None:
            chosen = random_resized_crop(images[index], self.crop, self.flip, generator)
        else:
            chosen = gather_augmented(images, index, translate=self.translate, flip=self.flip, generator=generator)
        return cutout(chosen, self.cutout, colour, generator) if self.cutout else chosen


def gather_augmented(
    images: Tensor, index: Tensor, *, translate: int, flip: bool, generator: torch.Generator | None
) -> Tensor:
    """The chosen images, shifted by up to ``translate`` pixels (below their height and width) and mirrored."""
    if not (translate or flip):
        return images[index]
    count, device = len(index), images.device
    height, width, channels = images.shape[1:]
    rows = torch.arange(height, device=device).expand(count, height)  # B×H: the source row of each row
    columns = torch.arange(width, device=device).expand(count, width)  # B×W
    if translate:
        shift = torch.randint(-translate, translate + 1, (2, count, 1), generator=generator, device=device)
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5  # B×1
        columns = torch.where(mirrored, columns.flip(1), columns)
    # Whole rows first, then their bytes: a single gather of pixels moves 3 bytes at a time, which is slow on a CPU.
    row = (index[:, None] * height + rows).view(-1)  # B·H, into the N·H rows of all images
    picked = images.view(-1, width * channels).index_select(0, row).view(count, height, width * channels)
    byte = columns[:, :, None] * channels + torch.arange(channels, device=device)  # B×W×C: the source byte
    byte = byte.view(count, 1, width * channels).expand(-1, height, -1)
    return picked.gather(2, byte).view(count, height, width, channels)


def _reflect(position: Tensor, size: int) -> Tensor:
    # -1 → 1, -2 → 2 and size → size-2: the border pixel is not repeated, as in numpy's and torch's "reflect".
    return size - 1 - (size - 1 - position.abs()).abs()


def random_resized_crop(images: Tensor, area: Sequence[float], flip: bool, generator: torch.Generator | None) -> Tensor:
    """A random part of every image (uint8 B×H×W×C), scaled to the whole size, with ``flip`` mirrored half the time."""
    count, device = len(images), images.device
    draws = torch.rand(5, count, generator=generator, device=device)  # 5×B
    share = area[0] + (area[1] - area[0]) * draws[0]
    ratio = torch.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * draws[1])
    width, height = (share * ratio).sqrt().clamp(max=1), (share / ratio).sqrt().clamp(max=1)
    x, y = (1 - width) * (2 * draws[2] - 1), (1 - height) * (2 * draws[3] - 1)  # centres; the image is -1…1
    mirror = torch.where(draws[4] < 0.5, -1.0, 1.0) if flip else torch.ones(count, device=device)
    zero = torch.zeros_like(x)
    boxes = torch.stack([width * mirror, zero, x, zero, height, y], dim=1).view(count, 2, 3)  # affine maps
    pixels = images.permute(0, 3, 1, 2).float()  # B×C×H×W
    grid = F.affine_grid(boxes, list(pixels.shape), align_corners=False)  # B×H×W×2
    # Bilinear without antialiasing: parts are only ever enlarged.
    scaled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def cutout(images: Tensor, side: int, colour: Tensor, generator: torch.Generator | None) -> Tensor:
    """Paints a square of ``side`` pixels over every image (uint8, B×H×W×C), in place; the border cuts it off."""
    count, device = len(images), images.device
    covered = []
    for size in images.shape[1:3]:
        centre = torch.randint(size, (count, 1), generator=generator, device=device)
        distance = torch.arange(size, device=device) - centre  # B×size
        covered.append((distance >= -(side // 2)) & (distance < side - side // 2))
    square = covered[0][:, :, None] & covered[1][:, None, :]  # B×H×W
    return images.copy_(torch.where(square[..., None], colour, images))
