"""What may happen to a training image, and the batched form of it: a few gathers on uint8 pixels.

Translation and mirroring are the standard augmentation of small images (He et al., 2015, section 4.2, there with zero
padding). Here the border is reflected, as in the fast CIFAR-10 recipes (Page, 2018; Jordan,
https://arxiv.org/abs/2404.00498), and neither the padding nor an intermediate image is ever stored: both are folded
into the row and column numbers of the gather. All draws come from a generator on the device of the images.
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
    """What may happen to a training image, in this order. The default is nothing.

    Args:
        crop: Least and greatest share of the image's area that a random crop takes, to be scaled to the whole size
            (Szegedy et al., https://arxiv.org/abs/1409.4842).
        translate: Largest random shift in pixels; the border is reflected.
        flip: Mirror left and right, half of the time.
        policy: ``trivial``: TrivialAugmentWide (Müller and Hutter, https://arxiv.org/abs/2103.10158). ``rand``:
            RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719). In the streamed feed only.
        magnitude: Of RandAugment, 0 to 30.
        erasing: Probability of erasing a random rectangle (Zhong et al., https://arxiv.org/abs/1708.04896). In the
            streamed feed only.
        cutout: Side in pixels of a square that is painted over, centred anywhere (DeVries and Taylor,
            https://arxiv.org/abs/1708.04552).
        fill: What is painted over, by channel: 0 to 255.
    """

    crop: Sequence[float] | None = None
    translate: int = 0
    flip: bool = False
    policy: Policy = "none"
    magnitude: int = 9
    erasing: float = 0.0
    cutout: int = 0
    fill: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be two shares of the area, above 0 and up to 1, not {self.crop}")
        if self.crop is not None and self.translate:
            raise ValueError("translate and crop exclude each other: a random crop shifts the image already")

    @property
    def one_by_one(self) -> bool:
        """Whether something is asked for that is done to one image at a time."""
        return self.policy != "none" or self.erasing > 0

    def gather(self, images: Tensor, index: Tensor, colour: Tensor, generator: torch.Generator) -> Tensor:
        """The images (uint8, N×H×W×C) that ``index`` (int64, B) chooses, augmented: uint8, B×H×W×C, contiguous.

        ``colour`` is ``fill`` as uint8, C, on the device of ``images``: sent there each time, it would make the host
        wait.
        """
        if self.crop is not None:
            chosen = random_resized_crop(images[index], self.crop, self.flip, generator)
        else:
            chosen = gather_augmented(images, index, translate=self.translate, flip=self.flip, generator=generator)
        return cutout(chosen, self.cutout, colour, generator) if self.cutout else chosen


def gather_augmented(
    images: Tensor, index: Tensor, *, translate: int, flip: bool, generator: torch.Generator | None
) -> Tensor:
    """The chosen images, each shifted by up to ``translate`` pixels in both directions and mirrored half the time.

    ``translate`` is below the height and the width. Shapes as in :meth:`Augmentation.gather`.
    """
    if not (translate or flip):
        return images[index]
    count, device = len(index), images.device
    height, width, channels = images.shape[1:]
    rows = torch.arange(height, device=device).expand(count, height)  # B×H: which row of its image comes here
    columns = torch.arange(width, device=device).expand(count, width)  # B×W
    if translate:
        shift = torch.randint(-translate, translate + 1, (2, count, 1), generator=generator, device=device)
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5  # B×1
        columns = torch.where(mirrored, columns.flip(1), columns)
    # Whole rows first, then their bytes: one gather of pixels would move 3 bytes at a time, slowly on a CPU.
    row = (index[:, None] * height + rows).view(-1)  # B·H, into the N·H rows of all images
    picked = images.view(-1, width * channels).index_select(0, row).view(count, height, width * channels)
    byte = columns[:, :, None] * channels + torch.arange(channels, device=device)  # B×W×C: which byte of its row
    byte = byte.view(count, 1, width * channels).expand(-1, height, -1)
    return picked.gather(2, byte).view(count, height, width, channels)


def _reflect(position: Tensor, size: int) -> Tensor:
    # -1 → 1, -2 → 2 and size → size-2: the border pixel is not repeated, as in numpy's and torch's "reflect".
    return size - 1 - (size - 1 - position.abs()).abs()


def random_resized_crop(images: Tensor, area: Sequence[float], flip: bool, generator: torch.Generator | None) -> Tensor:
    """A random part of every image, scaled bilinearly to the whole size, and mirrored half the time if ``flip``.

    uint8, B×H×W×C, to the same, contiguous. ``area`` is the least and greatest share of the image's, before sides are
    cut to its own. A part is never larger than what it is scaled to, so two taps a pixel are enough: there is nothing
    to smooth.
    """
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
