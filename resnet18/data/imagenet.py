"""ImageNet-1k (ILSVRC 2012) in its usual folders, ``train/<wnid>/`` and ``val/<wnid>/``.

Russakovsky et al., https://arxiv.org/abs/1409.0575. The labels of its test images were never published, and papers
report the 50,000 validation images: here these are the test images, seen by ``lightning test`` alone, and validation
images are cut from the training images.
"""

from typing import Any

from resnet18.data.base import AtLeast1, Fraction, Part
from resnet18.data.folder import ImageFolder
from resnet18.data.image_files import Portion


class ImageNet(ImageFolder):
    """1,000 classes, 1,281,167 images to train and validate on, 50,000 to test.

    Args:
        root: The directory that holds ``train`` and ``val``.
        image_size: Side of a training image in pixels.
        eval_share: How much of an image's shorter side the square in its middle takes, for evaluation.
        crop: Least and greatest share of an image's area that a random crop takes.
        batch_size: Training images a step, on each rank.
        val_share: Share of every class's training images that is kept for validation: 13 of some 1,300.
        kwargs: The rest is :class:`~resnet18.data.folder.ImageFolder`'s.
    """

    folders: dict[Part, str] = {"train": "train", "test": "val"}  # noqa: RUF012

    def __init__(
        self,
        root: str,
        image_size: AtLeast1 = 224,
        eval_share: Portion = 0.875,
        crop: tuple[Portion, Portion] | None = (0.08, 1.0),
        batch_size: AtLeast1 = 256,
        val_share: Fraction = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            crop,
            batch_size=batch_size,
            image_size=image_size,
            eval_share=eval_share,
            val_share=val_share,
            **kwargs,
        )
