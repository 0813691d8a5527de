"""The table of predictions, of one class an image and of several."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from resnet18.callbacks.predictions import Prediction, PredictionTable

pytestmark = pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
NAMES = ("cat", "dog", "bird")
SHARES = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3], [0.1, 0.7, 0.4]])


class Images(LightningDataModule):
    def predict_dataloader(self) -> DataLoader:
        return DataLoader([2, 0, 1], batch_size=2)  # type: ignore[arg-type]

    def image_ids(self) -> list[str]:
        return ["a.png", "b.png", "c.png"]


class OneClass(LightningModule):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Prediction:
        probabilities, classes = SHARES[batch].max(1)
        return Prediction(batch, classes, probabilities)


class SeveralClasses(LightningModule):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Prediction:
        return Prediction(batch, SHARES[batch] > 0.5, SHARES[batch])


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (OneClass, ["a.png,cat,0.900000", "b.png,bird,0.300000", "c.png,dog,0.700000"]),
        (SeveralClasses, ["a.png,cat+bird,0.900000+0.600000", "b.png,,", "c.png,dog,0.700000"]),
    ],
)
def test_the_table_has_a_row_an_image_in_the_images_order(
    model: type[LightningModule], rows: list[str], tmp_path: Path
) -> None:
    table = PredictionTable(tmp_path / "out.csv", NAMES)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", callbacks=[table], default_root_dir=tmp_path, **quiet)
    trainer.predict(model(), datamodule=Images(), return_predictions=False)
    assert table.path.read_text().splitlines() == ["image,class,probability", *rows]
    assert table.rows == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
