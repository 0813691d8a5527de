"""What is logged of training; more of it is tested where the classifier logs."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from resnet18.callbacks.training_log import TRAINING_METRICS, TrainingLog, learning_rates
from resnet18.optimization import trunk_groups
from resnet18.storage.metrics_file import MetricsFile


class WithoutLabels(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (images,) = batch
        return (self.layer(images) - images).square().mean() * 0 + batch_idx

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def test_batches_need_no_labels_and_the_loss_is_the_mean_since_the_last_log_point() -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=4,
        callbacks=[TrainingLog()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(WithoutLabels(), DataLoader(TensorDataset(torch.rand(24, 2)), 3))
    assert trainer.callback_metrics.keys() == TRAINING_METRICS.keys()
    assert trainer.callback_metrics["train/loss"] == (4 + 5 + 6 + 7) / 4
    assert trainer.callback_metrics["lr"] == 0.25
    assert trainer.callback_metrics["images_per_s"] > 0


class Linear(WithoutLabels):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.layer.weight, 3.0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch[0]).mean()


def test_norms_are_the_log_points_own_and_the_same_when_accumulated(tmp_path: Path) -> None:
    rows = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            log_every_n_steps=2,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=0.1,  # the norm is the one before
            callbacks=[TrainingLog()],
            logger=MetricsFile(tmp_path / f"{batch_size}.csv"),
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        images = torch.tensor([[3.0, 4.0]]).repeat(8, 1)  # whose mean is the gradient
        trainer.fit(Linear(), DataLoader(TensorDataset(images), batch_size))
        (row,) = csv.DictReader((tmp_path / f"{batch_size}.csv").open())
        rows.append({name: float(row[name]) for name in ("grad_norm", "weight_norm", "train/loss")})
        assert float(row["step_ms"]) > 0
        assert 0.1 < float(row["memory_gb"]) < 100
    assert rows[0] == pytest.approx(rows[1])
    assert rows[0]["grad_norm"] == 5
    # Two steps of 0.25 along a gradient that is clipped to a length of 0.1.
    weight = torch.tensor([3.0, 3.0]) - 2 * 0.25 * 0.1 * torch.tensor([0.6, 0.8])
    assert rows[0]["weight_norm"] == pytest.approx(weight.norm().item(), rel=1e-5)


def test_a_slower_backbones_rate_is_logged_by_its_name() -> None:
    head, trunk = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = trunk_groups([{"params": [*head.parameters(), *trunk.parameters()]}], head, 0.01)
    assert learning_rates(torch.optim.SGD(groups, lr=0.1)) == {"lr": 0.1, "lr/backbone": 0.01}
