"""Stratified splits with a seed and a fingerprint.

The fingerprint is stored with every run: runs with the same fingerprint trained and validated on the same images.
"""

import hashlib

import torch
from torch import Tensor

from resnet18.engine.seeding import generator


def stratified_split(strata: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits 0…N-1 into (rest, chosen): chosen is ``share`` of every stratum, rounded, at least one and never all.

    Args:
        strata: int64, N. An image alone in its stratum stays in the rest.
        share: Between 0 and 1.
        seed: Other seeds choose other images.

    Returns:
        Two ascending int64 tensors of positions in ``strata``.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to split off must lie between 0 and 1, not {share}")
    chosen = torch.zeros(len(strata), dtype=torch.bool)
    for stratum in strata.unique().tolist():
        members = (strata == stratum).nonzero().squeeze(1)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator(seed, stratum))
        chosen[members[order[:count]]] = True
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def fingerprint(**parts: Tensor) -> str:
    """Sixteen hex digits that change when any part, its name, or the order within it changes."""
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(f"{name}:{part.dtype}:{tuple(part.shape)};".encode())
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
