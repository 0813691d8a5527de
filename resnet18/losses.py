"""Losses as modules, and MixUp and CutMix.

A loss is any ``nn.Module`` from logits and targets to a scalar. Add yours here, or name one in a file of your own:
``--model.loss myloss.Focal --model.loss.gamma 2``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2


class BinaryCrossEntropy(nn.Module):
    """Decides on each class by itself, so that a mixed image may be both of its classes; the mean over N×C.

    Wightman et al., "ResNet strikes back", https://arxiv.org/abs/2110.00476.

    Args:
        label_smoothing: Share of a target that is spread evenly over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar, of float N×C logits and of targets: int64 N, or N×C from 0 to 1."""
        if targets.ndim == 1:  # not F.one_hot, which looks at the values and so waits for the device
            targets = torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)  # N → N×C
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[1]
        return F.binary_cross_entropy_with_logits(logits, targets)


NAMED = {"cross_entropy": nn.CrossEntropyLoss, "binary_cross_entropy": BinaryCrossEntropy}


class Mixing:
    """MixUp (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899), as torchvision has them.

    Every image of a batch is blended with its neighbour. Where both are on, one of them is drawn for each batch, from
    torch's global CPU generator, which is seeded anew in every step: a resumed run repeats the draws.

    Args:
        mixup: Alpha of MixUp's Beta(alpha, alpha) distribution; 0 switches it off.
        cutmix: The same for CutMix.
        num_classes: Width of the soft targets.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int) -> None:
        kinds: list[v2.Transform] = []
        if mixup:
            kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self._mix = v2.RandomChoice(kinds) if kinds else None

    def __bool__(self) -> bool:
        return self._mix is not None

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """float32 N×C×H×W, normalised, and int64 N → float32 N×C×H×W and float32 N×num_classes."""
        return self._mix(images, targets) if self._mix is not None else (images, targets)
