"""The mean loss; top-1 and top-5 are torchmetrics' own."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Mean over images, whatever the batches and ranks they came in.

    torchmetrics' MeanMetric waits for the device at every update to look for NaNs; told not to, version 1.9 drops its
    weights too, and a small last batch or rank counts as much as a full one.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Adds a batch: the sum of its losses and its number of images."""
        self.total = self.total + total  # not in place: a 16-bit precision has made the zero one of 16 bits
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count
