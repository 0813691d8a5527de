"""CIFAR-10: 60,000 colour images of 32×32 pixels in ten classes.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. Read, checked against its checksums and downloaded by torchvision.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torchvision import datasets

from resnet18.data.base import AtLeast0, ImageDataModule, Part
from resnet18.data.feeds.resident import ImageTensors
from resnet18.errors import RunError


class CIFAR10(ImageDataModule):
    """50,000 images to train and validate on, 10,000 to test.

    Args:
        root: Directory with the archive, or to download it to.
        translate: Largest random shift of a training image in pixels.
        flip: Mirror training images left and right, half of the time.
        kwargs: The rest is :class:`~resnet18.data.base.ImageDataModule`'s.

    Raises:
        RunError: In ``prepare_data``, if the archive is not there and can't be downloaded.
    """

    archive: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # over the 50,000 training images
    input_size = (3, 32, 32)

    def __init__(self, root: str = "data", translate: AtLeast0 = 4, flip: bool = True, **kwargs: Any) -> None:
        super().__init__(translate=translate, flip=flip, **kwargs)
        self.root = Path(root).expanduser()
        self._whole = False  # prepare_data runs twice: before a run is opened, and by the Trainer

    def prepare_data(self) -> None:
        """Downloads and unpacks the archive unless it is there and whole."""
        if self._whole:
            return
        archive = self.archive
        try:
            archive(self.root, train=False, download=True)  # checks all files, and reads only the test images
        except (OSError, RuntimeError, EOFError) as error:  # no network, a proxy, a full disk, a broken archive
            raise RunError(
                f"data.root: {archive.__name__} is not in {self.root} and could not be downloaded ({error}). Put "
                f"{archive.filename} there, from {archive.url}, with the MD5 checksum {archive.tgz_md5}"
            ) from None
        self._whole = True

    def load(self, part: Part) -> ImageTensors:
        try:
            archive = self.archive(self.root, train=part == "train")
        except RuntimeError:
            raise RunError(f"data.root: {self.archive.__name__} is not in {self.root}, or not whole") from None
        labels = torch.tensor(archive.targets, dtype=torch.int64)
        return ImageTensors(torch.from_numpy(numpy.ascontiguousarray(archive.data)), labels)
