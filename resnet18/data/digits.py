"""The embedded data set: 1,797 scans of handwritten digits, 8×8 pixels, from scikit-learn's wheel.

Test part of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
1998, https://doi.org/10.24432/C50P49: 43 people's digits, each 4×4 block of a 32×32 bitmap counted to 0…16.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy
import torch

from resnet18.data.base import AtLeast0, AtLeast1, ImageDataModule, Part
from resnet18.data.feeds.resident import ImageTensors
from resnet18.data.splits import stratified_split
from resnet18.errors import RunError

TEST_SHARE, TEST_SEED = 0.2, 0  # fixed: every run, of any seed and split, is tested on the same 359 images


class Digits(ImageDataModule):
    """Ten classes of 8×8 digits: 1,438 images to train and validate on, 359 to test.

    Args:
        root: Unused; part of stored runs from earlier versions.
        rgb: Repeat the grey value in three channels, for networks that take colour only.
        batch_size: Training images a step, on each rank.
        translate: Largest random shift of a training image in pixels.
        kwargs: The rest is :class:`~resnet18.data.base.ImageDataModule`'s.
    """

    class_names = tuple("0123456789")

    def __init__(
        self, root: None = None, rgb: bool = False, batch_size: AtLeast1 = 64, translate: AtLeast0 = 1, **kwargs: Any
    ) -> None:
        if root is not None:
            raise ValueError("root must be left out: the digits are scikit-learn's own")
        channels = 3 if rgb else 1
        self.input_size = (channels, 8, 8)
        self.mean, self.std = [0.305] * channels, [0.376] * channels  # over the 1,438 training images
        super().__init__(batch_size=batch_size, translate=translate, **kwargs)

    def load(self, part: Part) -> ImageTensors:
        # Found without importing scikit-learn, which would make every start slower.
        sklearn = importlib.util.find_spec("sklearn")
        if sklearn is None or sklearn.origin is None:
            raise RunError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
        # 1797×65: a line has 64 values of 0…16, row by row, and the class.
        file = Path(sklearn.origin).parent / "datasets/data/digits.csv.gz"
        table = torch.from_numpy(numpy.loadtxt(file, delimiter=","))
        labels = table[:, -1].long()
        train, test = stratified_split(labels, TEST_SHARE, TEST_SEED)
        chosen = test if part == "test" else train
        # Rounded to 0…255, so that the pixels are what an 8-bit scan would hold.
        pixels = (table[chosen, :-1] * 255 / 16).round().to(torch.uint8).view(-1, 8, 8, 1)
        images = pixels.expand(-1, -1, -1, self.input_size[0]).contiguous()  # N×8×8×C
        # A test image's name is its line number from 0, as in scikit-learn's load_digits.
        names = [str(line) for line in test.tolist()] if part == "test" else None
        return ImageTensors(images, labels[chosen], names=names)
