"""Stratified splits with a seed and a fingerprint.

A share of every class goes to each part, so that a small validation set has the class balance of the whole. The
fingerprint is stored with every run: two runs with the same one were trained, validated and tested on the same images.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from resnet18.engine.seeding import generator


def stratified_split(
    labels: Tensor, share: float, seed: int, names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Splits 0…N-1 into (rest, chosen), the chosen being ``share`` of every class, rounded, and at least one.

    Args:
        labels: int64, N.
        share: Between 0 and 1.
        seed: Other seeds choose other images.
        names: Of the classes, for the message of the error.

    Returns:
        Two ascending int64 tensors of positions in ``labels``.

    Raises:
        ValueError: Where a class has a single image, which cannot be on both sides.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to split off must lie between 0 and 1, not {share}")
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        if len(members) < 2:
            name = names[label] if names else label
            raise ValueError(f"class {name} has one image only; a split needs at least two of every class")
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator(seed, label))
        chosen[members[order[:count]]] = True
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def fingerprint(**parts: Tensor) -> str:
    """Sixteen hex digits that change when any part, its name, or the order within it changes."""
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(f"{name}:{part.dtype}:{tuple(part.shape)};".encode())
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
