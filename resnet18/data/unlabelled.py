"""Images without labels, for ``lightning predict --images``: prepared as the network's own test images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from resnet18.data.base import Part
from resnet18.data.feeds.decode import SUFFIXES
from resnet18.data.feeds.files import Files
from resnet18.data.folder import images_under
from resnet18.data.image_files import ImageFiles
from resnet18.errors import RunError


class Unlabelled(ImageFiles):
    """An image, or all below a directory; all arguments but ``images`` come from a checkpoint."""

    def __init__(
        self,
        images: str,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        input_size: Sequence[int],  # channels, height, width
        **kwargs: Any,
    ) -> None:
        channels, height, width = input_size
        if height != width or channels not in (1, 3):
            raise ValueError(f"images are resized to squares of 1 or 3 channels, not to {list(input_size)}")
        super().__init__(image_size=height, channels=channels, mean=mean, std=std, **kwargs)
        self.images, self.class_names = Path(images).expanduser(), tuple(class_names)

    def load(self, part: Part) -> Files:
        if not self.images.exists():
            raise RunError(f"images: there is no {self.images}")
        if self.images.is_dir():
            root, names = self.images, sorted(images_under(self.images))
        else:
            root, names = self.images.parent, [self.images.name]
        if not names:
            raise RunError(f"images: {root} holds no image ({', '.join(SUFFIXES)})")
        return Files(root, names, torch.zeros(len(names), dtype=torch.int64))  # the labels are not used
