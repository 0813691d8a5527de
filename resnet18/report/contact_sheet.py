"""Pictures of what a network gets: a batch with captions, and single images small enough for a page."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

LARGEST = 128  # pixels, the longest side of a single image


def encoded(image: Tensor) -> tuple[bytes, str]:
    """A uint8 C×H×W image as the content of a file and its suffix: PNG, or JPEG where it has to be reduced."""
    picture = to_pil_image(image[: 3 if len(image) >= 3 else 1].cpu())
    kind = "png" if max(picture.size) <= LARGEST // 2 else "jpeg"
    picture.thumbnail((LARGEST, LARGEST))
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue(), kind


def contact_sheet(images: Tensor, captions: Sequence[str]) -> Image.Image:
    """uint8 N×C×H×W images in rows of eight, with captions; shows the first channel of two, the first three of four."""
    channels = 3 if images.shape[1] >= 3 else 1
    height, width = images.shape[2:]
    factor = max(1, -(-96 // max(height, width))) * min(1, 192 / max(height, width))  # whole where it enlarges
    size = round(width * factor), round(height * factor)
    tiles = []
    for image, caption in zip(images[:, :channels].cpu(), captions, strict=True):
        tile = Image.new("RGB", (max(size[0], 64), size[1] + 20), "white")
        # Nearest, so that an enlarged pixel is seen as the one pixel that the network gets.
        how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
        tile.paste(to_pil_image(image).resize(size, how))
        ImageDraw.Draw(tile).text((0, size[1] + 2), caption, "black", ImageFont.load_default(13))  # cut off at the edge
        tiles.append(pil_to_tensor(tile))
    return to_pil_image(make_grid(tiles, nrow=8, padding=8, pad_value=255))
