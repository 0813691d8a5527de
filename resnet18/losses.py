"""What is minimised in training: cross-entropy, or the binary cross-entropy of each class on its own."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

Loss = Literal["cross_entropy", "binary_cross_entropy"]


def check_loss(loss: str, label_smoothing: float) -> None:
    """
    Raises:
        ValueError: For a loss that is none of :data:`Loss`, and a label smoothing outside of 0…1.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be {' or '.join(get_args(Loss))}, not {loss}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")


def training_loss(loss: Loss, logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """The mean loss of a batch, a scalar in float32.

    Args:
        loss: ``binary_cross_entropy`` asks of each class whether it is in the image, and takes the mean over the
            classes too (Wightman et al., "ResNet strikes back", https://arxiv.org/abs/2110.00476): a mixed image may
            then be both of its classes at once.
        logits: N×num_classes.
        labels: int64 N, or float N×num_classes where they are soft.
        label_smoothing: Share of a label that is spread evenly over all classes.
    """
    logits = logits.float()
    if loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if labels.ndim == 1:  # not F.one_hot, which looks at the values
        labels = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
    smooth = labels * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return F.binary_cross_entropy_with_logits(logits, smooth)


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
