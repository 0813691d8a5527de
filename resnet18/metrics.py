"""What is measured beside torchmetrics' own scores, and which way a metric gets better.

Add a metric of yours to ``Classifier.make_metrics``, or name it in YAML under ``model: {metrics: …}``.
"""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

Mode = Literal["max", "min"]  # whether more of a metric is better, or less


class MeanLoss(Metric):
    """Mean over images, whatever batches and ranks they came in.

    torchmetrics' MeanMetric waits for the device in every update to look for NaNs; with that off, version 1.9 drops its
    weights too, and a small last batch counts as much as a full one.
    """

    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Adds a batch: the sum of its losses and its number of images."""
        self.total = self.total + total  # not in place: in a 16-bit precision the zero has 16 bits
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


def mode_of(metric: Metric) -> Mode | None:
    """Which way a metric gets better, as its class says; None where it doesn't say."""
    return {True: "max", False: "min"}.get(metric.higher_is_better)  # type: ignore[return-value, arg-type]
