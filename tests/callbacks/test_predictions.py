"""The table of predictions, of one class an image and of several."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from resnet18.callbacks.predictions import Prediction, PredictionTable
from resnet18.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
NAMES = ("cat", "dog", "bird")
SHARES = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3], [0.1, 0.7, 0.4]])


class Images(LightningDataModule):
    def predict_dataloader(self) -> DataLoader:
        return DataLoader([2, 0, 1], batch_size=2)  # type: ignore[arg-type]

    def image_ids(self) -> list[str]:
        return ["a.png", "b.png", os.fsdecode(b"c\xe9.png")]  # not every file's name is Unicode


class Unread(Images):
    def __init__(self) -> None:
        super().__init__()
        self.unreadable = {0: "the file is empty"}


class OneClass(LightningModule):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Prediction:
        probabilities, classes = SHARES[batch].max(1)
        return Prediction(batch, classes, probabilities)


class SeveralClasses(LightningModule):
    def predict_step(self, batch: Tensor, batch_idx: int) -> Prediction:
        return Prediction(batch, SHARES[batch] > 0.5, SHARES[batch], SHARES[batch])


class Second(LightningModule):
    """Decides on the second likeliest class."""

    def predict_step(self, batch: Tensor, batch_idx: int) -> Prediction:
        shares, classes = SHARES[batch].topk(2)
        return Prediction(batch, classes[:, 1], shares[:, 1], SHARES[batch].log())


def predict(model: LightningModule, table: PredictionTable, data: LightningDataModule | None = None) -> list[str]:
    """Lines of the table."""
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", callbacks=[table], default_root_dir=table.path.parent, **quiet)
    trainer.predict(model, datamodule=data or Images(), return_predictions=False)
    return table.path.read_text().splitlines()


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (OneClass, ["a.png,cat,0.900000", "b.png,bird,0.300000", r"c\xe9.png,dog,0.700000"]),
        (SeveralClasses, ["a.png,cat+bird,0.900000+0.600000", "b.png,,", r"c\xe9.png,dog,0.700000"]),
    ],
)
def test_the_table_has_a_row_an_image_in_the_images_order(
    model: type[LightningModule], rows: list[str], tmp_path: Path
) -> None:
    table = PredictionTable(tmp_path / "out.csv", NAMES)
    assert predict(model(), table) == ["image,class,probability", *rows]
    assert predict(model(), table) == ["image,class,probability", *rows]  # and once more
    assert table.rows == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_the_next_classes_follow_the_models_own_decision(tmp_path: Path) -> None:
    lines = predict(Second(), PredictionTable(tmp_path / "out.jsonl", NAMES, topk=3))
    shares = (SHARES / SHARES.sum(1, keepdim=True)).tolist()
    first, _, last = (json.loads(line)["top"] for line in lines)
    assert first == [["bird", 0.6], ["cat", pytest.approx(shares[0][0])], ["dog", pytest.approx(shares[0][1])]]
    assert [name for name, _ in last] == ["bird", "dog", "cat"]


def test_an_image_that_could_not_be_read_has_a_reason_and_no_class(tmp_path: Path) -> None:
    table, data = PredictionTable(tmp_path / "out.csv", NAMES), Unread()
    lines = predict(OneClass(), table, data)
    assert lines[:3] == ["image,class,probability,error", "a.png,,,the file is empty", "b.png,bird,0.300000,"]
    assert data.unreadable == {}  # nothing piles up


class TwoLayers(OneClass):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))

    def predict_step(self, batch: Tensor, batch_idx: int) -> Prediction:
        self.backbone(SHARES[batch])
        self.backbone(-SHARES[batch])  # as of mirror images
        return super().predict_step(batch, batch_idx)


def test_an_embedding_is_what_the_last_layer_got_first(tmp_path: Path) -> None:
    model = TwoLayers()
    lines = predict(model, PredictionTable(tmp_path / "out.jsonl", NAMES, embeddings=True))
    found = torch.tensor([json.loads(line)["embedding"] for line in lines])
    assert torch.equal(found, model.backbone[0](SHARES))
    assert not model.backbone[1]._forward_pre_hooks


class Unused(OneClass):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        (OneClass, {"topk": 2}, "topk: OneClass.predict_step returns no logits"),
        (SeveralClasses, {"topk": 2}, "topk: there are no next classes where an image has several"),
        (Unused, {"embeddings": True}, "embeddings: the network's last layer is not called once"),
    ],
)
def test_what_a_model_does_not_give_is_refused_and_nothing_is_left(
    model: type[LightningModule], asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        predict(model(), PredictionTable(tmp_path / "out.csv", NAMES, **asked))
    assert not list(tmp_path.iterdir())
