"""``--flip_tta``: the logits of an image and of its mirror image averaged, in evaluation alone."""

import csv
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, SMALL
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import resnet18
from resnet18 import Classifier


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the shared run, for its ``evaluations.jsonl`` to be written into."""
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("wandb")))


@pytest.fixture
def by_hand(trained: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the test images, with their mirror images averaged, and labels."""
    model, data = resnet18.load_run(trained).model, resnet18.load_run(trained).data
    data.setup("test")
    plain, averaged, labels = [], [], []
    with torch.no_grad():
        for images, answers, *_ in data.test_dataloader():
            mirrored = images[..., torch.arange(images.shape[3] - 1, -1, -1)]
            plain.append(model(images))
            averaged.append((plain[-1] + model(mirrored)) / 2)
            labels.append(answers)
    return torch.cat(plain), torch.cat(averaged), torch.cat(labels)


def test_the_scores_are_those_of_the_averaged_logits(lightning, run: Path, by_hand: tuple[Tensor, ...]) -> None:
    plain, averaged, labels = by_hand
    assert not torch.equal(plain.argmax(1), averaged.argmax(1))
    for options, logits, on in (((), plain, False), (("--flip_tta", "true"), averaged, True)):
        done = lightning("test", "--ckpt_path", run, *options)
        assert done.status == 0, done.err
        assert ("  with flip averaging  (" in done.out) == on
        record = resnet18.load_run(run).evaluations[-1]
        assert record["flip_tta"] is on
        assert record["test/top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item(), abs=1e-7)
        assert record["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_predictions_are_those_of_the_averaged_logits(
    lightning, tmp_path: Path, run: Path, by_hand: tuple[Tensor, ...]
) -> None:
    done = lightning("predict", "--ckpt_path", run, "--flip_tta", "true", "--output", "averaged.csv")
    assert done.status == 0, done.err
    rows = list(csv.reader((tmp_path / "averaged.csv").open()))[1:]
    probabilities, classes = by_hand[1].softmax(1).max(1)
    assert [row[1] for row in rows] == [str(number) for number in classes.tolist()]
    assert [float(row[2]) for row in rows] == pytest.approx(probabilities.tolist(), abs=1e-4)


def test_validate_takes_it_and_fit_refuses_it(lightning, tmp_path: Path, run: Path) -> None:
    scores = []
    for value in ("true", "false"):
        done = lightning("validate", "--ckpt_path", run, "--flip_tta", value)
        assert done.status == 0, done.err
        assert ("with flip averaging" in done.out) == (value == "true")
        scores.append(done.out.split()[1])
    assert scores[0] != scores[1]
    (tmp_path / "flip.yaml").write_text("flip_tta: true\n")
    for options in (("--flip_tta", "true"), ("--config", "flip.yaml")):
        done = lightning("fit", "--config", CONFIG, *SMALL, *options)
        assert done.status == 2
        assert "flip_tta" in done.err
    assert not (tmp_path / "runs").exists()


class Counting(nn.Module):
    """Counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.seen = nn.Linear(4, 2), 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.fc(images.flatten(1))


def test_it_is_off_while_fitting_and_in_no_checkpoint(tmp_path: Path) -> None:
    backbone = Counting()
    classifier = Classifier(backbone, partial(SGD, lr=0.1), num_classes=2, mean=[0.5], std=[0.5])
    assert classifier.flip_tta is False
    classifier.flip_tta = True
    images = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    training = DataLoader(TensorDataset(images, torch.zeros(6, dtype=torch.long)), 3)
    evaluation = DataLoader(TensorDataset(images, torch.zeros(6, dtype=torch.long), torch.arange(6)), 3)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **settings)
    trainer.fit(classifier, training, evaluation)
    assert backbone.seen == 6 + 6
    for evaluate in (trainer.validate, trainer.test, trainer.predict):
        backbone.seen = 0
        evaluate(classifier, evaluation)
        assert backbone.seen == 6 + 6
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert "flip_tta" not in str(torch.load(tmp_path / "model.ckpt", weights_only=True).keys())
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert not [name for name in (*content["hyper_parameters"], *content["state_dict"]) if "flip" in name]
