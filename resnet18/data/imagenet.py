"""ImageNet-1k (ILSVRC 2012) in its usual folders, ``train/<wnid>/`` and ``val/<wnid>/``.

Russakovsky et al., https://arxiv.org/abs/1409.0575. The labels of its test images were never published, so that the
50,000 validation images are what everyone reports. Here these are the test images, seen by ``lightning test`` alone;
what validates is cut from the training images.
"""

from typing import Any

from resnet18.data.base import Part
from resnet18.data.folder import ImageFolder


class ImageNet(ImageFolder):
    """1,000 classes, 1,281,167 images to train and validate on, 50,000 to test.

    Args:
        root: The directory that holds ``train`` and ``val``.
        image_size: Side of a training image in pixels.
        eval_share: How much of an image's shorter side the square in its middle takes, for evaluation.
        crop: Least and greatest share of an image's area that a random crop takes.
        batch_size: Training images a step, on each rank.
        val_share: Share of every class's training images that validates instead: 13 of some 1,300.
        kwargs: The rest is :class:`~resnet18.data.folder.ImageFolder`'s.
    """

    folders: dict[Part, str] = {"train": "train", "test": "val"}  # noqa: RUF012

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        eval_share: float = 0.875,
        crop: tuple[float, float] | None = (0.08, 1.0),
        batch_size: int = 256,
        val_share: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root=root,
            image_size=image_size,
            eval_share=eval_share,
            crop=crop,
            batch_size=batch_size,
            val_share=val_share,
            **kwargs,
        )
