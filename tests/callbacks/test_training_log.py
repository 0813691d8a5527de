"""What is logged of training; more of it is tested where the classifier logs."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from resnet18.callbacks.training_log import TRAINING_METRICS, TrainingLog


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
