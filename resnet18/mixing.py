"""MixUp and CutMix: pairs of training images are blended, and so are their labels.

Zhang et al., https://arxiv.org/abs/1710.09412, and Yun et al., https://arxiv.org/abs/1905.04899, as torchvision has
them. They draw from torch's global CPU generator, so that :mod:`resnet18.callbacks.seeding` makes a resumed run repeat
them; only the drawn numbers reach the device, which is not waited for.
"""

import math

from torch import Tensor
from torchvision.transforms import v2


class Mixing:
    """Blends every image of a batch with its neighbour. Where both kinds are on, one is drawn for each batch.

    Args:
        mixup: Alpha of MixUp's Beta(alpha, alpha) distribution; 0 switches it off.
        cutmix: Likewise of CutMix.
        num_classes: Width of the soft labels.

    Raises:
        ValueError: For an alpha below 0, and where there is only one class to mix.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, not {alpha}")
        kinds: list[v2.Transform] = []
        if mixup:
            kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        if kinds and num_classes < 2:
            raise ValueError(f"{'mixup' if mixup else 'cutmix'} needs labels to mix, but there is only one class")
        self._mix = v2.RandomChoice(kinds) if len(kinds) > 1 else next(iter(kinds), None)

    def __bool__(self) -> bool:
        return self._mix is not None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images and soft labels.

        Args:
            images: float32 N×C×H×W: normalised, for a blend of whole numbers would be cut off.
            labels: int64 N.

        Returns:
            float32 N×C×H×W, and float32 N×num_classes, whose rows sum to 1. Left as they are where all is off.
        """
        return self._mix(images, labels) if self._mix is not None else (images, labels)
