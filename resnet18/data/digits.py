"""The embedded data set: 1,797 scans of handwritten digits, 8×8 pixels, from scikit-learn's wheel.

Test part of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
1998, https://doi.org/10.24432/C50P49: 43 people's digits, each 4×4 block of a 32×32 bitmap counted to 0…16.
"""

import importlib.util
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from resnet18.data.base import ImageDataModule, Part
from resnet18.data.feeds.resident import ImageTensors
from resnet18.data.splits import stratified_split
from resnet18.errors import RunError

FILE = "digits.csv.gz"
TEST_SHARE, TEST_SEED = 0.2, 0  # fixed: every run, of any seed and split, is tested on the same 359 images


class Digits(ImageDataModule):
    """Ten classes of 8×8 digits: 1,438 images to train and validate on, 359 to test.

    Args:
        root: Directory with a ``digits.csv.gz`` of one's own, in scikit-learn's format: a line an image, 64 values from
            0 to 16, row by row, and the class. By default scikit-learn's own file.
        rgb: Repeat the grey value in three channels, for networks that take colour only.
        batch_size: Training images a step, on each rank.
        translate: Largest random shift of a training image in pixels.
        kwargs: The rest is :class:`~resnet18.data.base.ImageDataModule`'s.
    """

    class_names = tuple("0123456789")

    def __init__(
        self,
        root: str | None = None,
        rgb: bool = False,
        batch_size: int = 64,
        translate: int = 1,
        **kwargs: Any,
    ) -> None:
        channels = 3 if rgb else 1
        self.input_size = (channels, 8, 8)
        self.mean, self.std = [0.305] * channels, [0.376] * channels  # over the 1,438 training images
        super().__init__(batch_size=batch_size, translate=translate, **kwargs)
        self.root, self.rgb = root, rgb
        self._test_rows: Tensor | None = None

    def load(self, part: Part) -> ImageTensors:
        values = self._read()
        labels = torch.from_numpy(values[:, -1]).long()
        # 0…16 to 0…255, rounded, so that the pixels are what an 8-bit scan would hold.
        pixels = torch.from_numpy(values[:, :-1] * 255 / 16).round().to(torch.uint8).view(-1, 8, 8, 1)
        train, test = stratified_split(labels, TEST_SHARE, TEST_SEED)
        chosen = train if part == "train" else test
        if part == "test":
            self._test_rows = test
        images = pixels[chosen].expand(-1, -1, -1, self.input_size[0]).contiguous()
        return ImageTensors(images, labels[chosen])

    def image_ids(self) -> list[str]:
        """The images' line numbers in the file, counted from 0, as in scikit-learn's ``load_digits``."""
        assert self._test_rows is not None
        return [str(row) for row in self._test_rows.tolist()]

    def _read(self) -> numpy.ndarray:
        path = Path(self.root) / FILE if self.root else _embedded_file()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # an empty file is refused below
                values = numpy.loadtxt(path, delimiter=",")
        except FileNotFoundError:
            raise RunError(f"data.root: there is no {path}") from None
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise RunError(f"data.root: {path} can't be read: {error}") from None
        if values.ndim != 2 or values.shape[1] != 65:
            raise RunError(f"data.root: {path} should have 65 values a line, not the shape {values.shape}")
        if not (values[:, :-1].min() >= 0 and values[:, :-1].max() <= 16 and set(values[:, -1]) == set(range(10))):
            raise RunError(f"data.root: {path} should hold pixels from 0 to 16 and the classes 0 to 9")
        if numpy.bincount(values[:, -1].astype(int)).min() < 4:
            raise RunError(f"data.root: {path} should hold four images of every class, to train, validate and test on")
        return values


def _embedded_file() -> Path:
    # Found without importing scikit-learn, which would make every start slower.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise RunError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    return Path(spec.origin).parent / "datasets" / "data" / FILE
