"""Images as they are given in Python: files, PIL's, arrays and tensors, each treated as a photograph in validation."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from resnet18.data.feeds.decode import UnreadableImage, centre, decode, pixels_of, scaled_side
from resnet18.errors import RunError

KINDS = (
    "a path, a PIL image, a uint8 array (H×W, H×W×C or N×H×W×C), a uint8 tensor (C×H×W or N×C×H×W) or a list of them"
)


def views(model: Any, x: Any) -> Iterator[tuple[str, Tensor]]:
    """Names, of files or numbers from 0, and what the model sees of each image: uint8 C×H×W; one after the other.

    Raises:
        RunError: For a file that can't be read.
        TypeError, ValueError: For what is no image, such as an array of floats.
    """
    size: Sequence[int] = model.input_size[1:] if model.input_size else ()  # without one they are taken as they are
    channels = model.input_size[0] if model.input_size else len(model.mean)
    enough = max((scaled_side(side, model.eval_share) for side in size), default=None)
    convert, warned = channels in (1, 3), False
    for number, image in enumerate(_each(x)):
        name = str(image) if isinstance(image, Path) else getattr(image, "filename", "") or str(number)
        bands = channels
        try:
            if isinstance(image, Path):
                pixels = decode(image, channels if convert else 3, enough)
                if channels == 1 and not warned:
                    with Image.open(image) as opened:
                        bands = _bands(opened)
            elif isinstance(image, Image.Image):
                bands, pixels = _bands(image), pixels_of(image, channels if convert else 3)
            else:
                bands, pixels = len(image), image
                if bands != channels and convert and bands <= 4:
                    pixels = pixels_of(to_pil_image(image), channels)
        except (UnreadableImage, OSError) as error:
            raise RunError(f"{name}: {error}") from None
        if len(pixels) != channels:
            raise ValueError(f"image {name}: the network takes {channels} channels, not {len(pixels)}")
        if channels == 1 and bands > 2 and not warned:
            warnings.warn(f"{name}: the network was trained on grey images; colours are converted", stacklevel=4)
            warned = True
        yield name, centre(pixels, size, model.eval_share, model.interpolation) if size else pixels


def _bands(image: Image.Image) -> int:
    return 1 if image.mode in ("1", "L", "LA", "F") or image.mode[0] == "I" else 3


def _each(x: Any) -> Iterator[Any]:
    """Paths, PIL's images and uint8 C×H×W tensors, one by one."""
    if isinstance(x, str | PathLike):
        if "://" in str(x):
            raise RunError(f"{x} is a web address, and nothing is downloaded here: give the path of a file")
        path = Path(x).expanduser()
        if path.is_dir():
            raise RunError(f"{path} is a directory: sorted(Path({str(x)!r}).rglob('*.jpg')) lists its files")
        yield path
    elif isinstance(x, Image.Image):
        yield x
    elif isinstance(x, numpy.ndarray | Tensor):
        yield from _pixels(x)
    elif isinstance(x, Iterable) and not isinstance(x, bytes | dict):
        for one in x:
            yield from _each(one)
    else:
        raise TypeError(f"expected {KINDS}, not a {type(x).__name__}")


def _pixels(x: Any) -> Tensor:
    """A batch, uint8 N×C×H×W, of an array or a tensor of one image or several."""
    if (kind := str(x.dtype).removeprefix("torch.")) != "uint8":
        hint = "; of floats from 0 to 1 these are (255 * x).round() as uint8" if kind.startswith("float") else ""
        raise TypeError(f"expected pixels of 0 to 255 as uint8, not {kind}, for the network normalises them{hint}")
    if isinstance(x, Tensor):
        kind, batch = "a tensor of C×H×W or N×C×H×W", x[None] if x.ndim == 3 else x
    else:
        kind, batch = "an array of H×W, H×W×C or N×H×W×C", torch.from_numpy(numpy.array(x))
        batch = {2: batch[None, ..., None], 3: batch[None]}.get(x.ndim, batch)
        batch = batch.movedim(-1, 1) if batch.ndim == 4 else batch
    if batch.ndim != 4 or 0 in batch.shape[1:]:
        raise ValueError(f"expected {kind}, not of {'×'.join(map(str, x.shape))}")
    return batch.cpu()
