"""What is minimised in training: cross-entropy, or the binary cross-entropy of each class on its own."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

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
