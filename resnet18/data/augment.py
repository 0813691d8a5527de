"""Random translation and mirroring of a whole batch at once, as one gather on uint8 pixels.

The pair is the standard augmentation of small images (He et al., 2015, section 4.2, there with zero padding). Here the
border is reflected, as in the fast CIFAR-10 recipes (Page, 2018; Jordan, https://arxiv.org/abs/2404.00498), and neither
the padding nor an intermediate image is ever stored: both are folded into the row and column numbers of the gather.
"""

import torch
from torch import Tensor


def gather_augmented(
    images: Tensor, index: Tensor, *, translate: int, flip: bool, generator: torch.Generator | None
) -> Tensor:
    """The chosen images, each shifted by up to ``translate`` pixels in both directions and mirrored half the time.

    Args:
        images: uint8, N×H×W×C.
        index: int64, the B images to take, on the device of ``images``.
        translate: Largest shift in pixels, 0 for none; below the height and the width.
        flip: Mirror left and right with probability one half.
        generator: Source of the draws, on the device of ``images``; may be None where nothing is drawn.

    Returns:
        uint8, B×H×W×C, contiguous.
    """
    if not (translate or flip):
        return images[index]
    count, device = len(index), images.device
    height, width = images.shape[1:3]
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if translate:
        shift = torch.randint(-translate, translate + 1, (2, count, 1), generator=generator, device=device)
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(position: Tensor, size: int) -> Tensor:
    # -1 → 1, -2 → 2 and size → size-2: the border pixel is not repeated, as in numpy's and torch's "reflect".
    return size - 1 - (size - 1 - position.abs()).abs()
