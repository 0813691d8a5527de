"""One image file to uint8 pixels, or the reason why not.

torchvision decodes JPEGs (libjpeg-turbo, without an image of PIL's between), and PIL all other kinds; JPEGs too once
torchvision drops its decoder, as 0.29 announces. A JPEG much larger than needed is decoded at a half, a quarter or an
eighth of its size: libjpeg does that in the frequency domain, at a fraction of the cost.
"""

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from resnet18.engine.inputs import Interpolation

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif")
PIXEL_LIMIT = 100_000_000  # 0.3 GB decoded; PIL's own limit is near it
TOO_LARGE = f"over the limit of {PIXEL_LIMIT // 1_000_000} megapixels"
LARGE_FILE = 1 << 18  # bytes; a smaller JPEG is hardly larger than a network's input, and its header not worth a look
JPEG_MAGIC = b"\xff\xd8\xff"
TRUECOLOR: tuple[str, ...] = ("RGB", "L")  # the modes of a JPEG that torchvision decodes as PIL does; not CMYK

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:
    TRUECOLOR = ()

warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities of TorchVision are deprecated")
# The limit above is checked by hand, with a reason in the user's terms.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(Exception):  # noqa: N818
    """A file that gives no pixels; the message is the reason."""


def decode(path: Path, channels: int = 3, at_least: int | None = None, *, checked: bool = False) -> Tensor:
    """The pixels of an image file, upright by its EXIF orientation: uint8 C×H×W, or UnreadableImage.

    Transparency is dropped, an animation gives its first frame, and 16 bits a channel give their upper 8. A large JPEG
    may be reduced as long as both sides keep ``at_least`` pixels; a small one ``checked`` before skips its header.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage("a link that points nowhere" if path.is_symlink() else "no such file") from None
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from None
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        if checked and TRUECOLOR and content.startswith(JPEG_MAGIC) and len(content) < LARGE_FILE:
            with suppress(RuntimeError):  # a kind for PIL
                return _decode_jpeg(content, channels)
        with Image.open(io.BytesIO(content)) as image:
            return _decode_any(image, content, channels, at_least)
    except UnidentifiedImageError:
        raise UnreadableImage("not an image of a known kind") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(TOO_LARGE) from None
    except (OSError, ValueError, SyntaxError, RuntimeError, MemoryError, EOFError) as error:
        reason = re.sub(r"^\w+, \S+\.cpp:\d+, ", "", str(error).partition("\n")[0])  # torchvision adds its C++ line
        raise UnreadableImage(reason or type(error).__name__) from None


def _decode_jpeg(content: bytes, channels: int) -> Any:
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    # The buffer is only read, which torch.frombuffer can't know of bytes.
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(data, mode=mode, apply_exif_orientation=True)  # C×H×W


def _decode_any(image: Image.Image, content: bytes, channels: int, at_least: int | None) -> Tensor:
    width, height = image.size
    if image.format == "JPEG" and at_least is not None and len(content) >= LARGE_FILE:
        image.draft(image.mode, (at_least, at_least))
    if image.width * image.height > PIXEL_LIMIT:
        raise UnreadableImage(f"{width:,} × {height:,} pixels, {TOO_LARGE}")
    if image.format == "JPEG" and image.size == (width, height) and image.mode in TRUECOLOR:
        return _decode_jpeg(content, channels)
    return pixels_of(image, channels)


def pixels_of(image: Image.Image, channels: int = 3) -> Tensor:
    """The pixels of an opened image: uint8 C×H×W, as :func:`decode` gives those of its file."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would be copied, at 4 bytes a pixel
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # PIL would cut values off at 255 instead of scaling them
        image = Image.fromarray((numpy.asarray(image).clip(0, 65535) >> 8).astype(numpy.uint8))
    mode = "RGB" if channels == 3 else "L"
    pixels = torch.from_numpy(numpy.array(image if image.mode == mode else image.convert(mode)))  # H×W×3 or H×W
    return pixels.view(image.height, image.width, channels).permute(2, 0, 1)


def centre(image: Tensor, size: Sequence[int], share: float = 1.0, interpolation: Interpolation = "bilinear") -> Tensor:
    """The evaluation view of an image (uint8 C×H×W): scaled to cover ``size``, then its middle, C×height×width.

    ``share`` is how much of the shorter side is kept, 0.875 for ImageNet's 224 of 256. For a square it is torchvision's
    ``resize`` to one number and ``center_crop``, bit for bit. A strip that is far too narrow is an UnreadableImage.
    """
    height, width = image.shape[1:]
    tall, wide = (scaled_side(side, share) for side in size)
    shape = (int(wide * height / width), wide) if height * wide >= width * tall else (tall, int(tall * width / height))
    if shape[0] * shape[1] > PIXEL_LIMIT:
        raise UnreadableImage(f"{width:,} × {height:,} pixels: covering {size[1]} × {size[0]} it is {TOO_LARGE}")
    return F.center_crop(F.resize(image, list(shape), InterpolationMode(interpolation), antialias=True), list(size))


def scaled_side(size: int, share: float) -> int:
    """Pixels of which :func:`centre` keeps ``size``."""
    return max(size, round(size / share))
