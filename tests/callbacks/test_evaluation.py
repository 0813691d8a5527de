"""What validation and test keep: checked against the model's own predictions, counted again by torchmetrics."""

import json
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from conftest import CONFIG, SMALL
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from resnet18 import load_run


def kept(run: Path, part: str = "val") -> dict:
    return json.loads((run / f"evaluation-{part}.json").read_text())


@pytest.fixture(scope="module")
def predictions(trained: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The validation images, their labels and the best checkpoint's probabilities."""
    run = load_run(trained)
    run.data.setup("validate")
    with torch.inference_mode():
        batches = [(images, labels, run.model(images).softmax(1)) for images, labels, _ in run.data.val_dataloader()]
    images, labels, probabilities = (torch.cat(column) for column in zip(*batches, strict=True))
    return images, labels, probabilities


def test_fit_keeps_the_best_epochs_confusion_and_calibration(trained: Path, predictions) -> None:
    _, labels, probabilities = predictions
    found = kept(trained)
    matrix = torch.zeros(10, 10, dtype=torch.int64)
    for true, predicted, count in found["confusion"]:
        matrix[true, predicted] = count
    assert torch.equal(matrix, multiclass_confusion_matrix(probabilities.argmax(1), labels, 10))
    error = multiclass_calibration_error(probabilities, labels, 10, n_bins=15, norm="l1")
    assert found["calibration"]["error"] == pytest.approx(error.item(), abs=1e-5)
    assert sum(size for size, _, _ in found["calibration"]["bins"]) == found["images"] == 143
    assert found["scores"]["val/top1"] == pytest.approx(matrix.trace().item() / 143)
    assert (found["epoch"], found["step"], found["checkpoint"]) == (2, 60, "checkpoints/best.ckpt")


def test_its_mistakes_are_the_most_confident_with_their_pictures(trained: Path, predictions) -> None:
    images, labels, probabilities = predictions
    sure, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().squeeze(1)
    expected = sure[wrong].sort(descending=True).values[:16]
    mistakes = kept(trained)["mistakes"]
    assert [mistake["probability"] for mistake in mistakes] == pytest.approx(expected.tolist(), abs=1e-5)
    data = load_run(trained).data
    data.setup("validate")
    ids = list(data.image_ids("val"))
    for mistake in mistakes:
        position = ids.index(mistake["image"])
        assert (mistake["true"], mistake["predicted"]) == (labels[position], predicted[position])
        picture = numpy.array(Image.open(trained / mistake["picture"]))
        assert (picture == images[position, 0].numpy()).all()


def test_the_first_batch_is_kept_as_the_network_saw_it(trained: Path) -> None:
    assert Image.open(trained / "evaluation" / "batch.png").width == 8 * (96 + 8) + 8


def test_it_is_the_same_in_batches_of_another_size_and_replaces_the_earlier_pictures(
    trained: Path, tmp_path: Path, lightning
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = kept(trained)
    done = lightning("validate", "--ckpt_path", "run", "--data.eval_batch_size", "7")
    assert done.status == 0, done.err
    after = kept(tmp_path / "run")
    assert after["given"] == {"data.eval_batch_size": 7}
    assert [after[key] for key in ("confusion", "epoch")] == [before[key] for key in ("confusion", "epoch")]
    assert after["calibration"]["error"] == pytest.approx(before["calibration"]["error"], abs=1e-6)
    for was, now in zip(before["mistakes"], after["mistakes"], strict=True):
        assert was["image"] == now["image"]
    pictures = {path.name for path in (tmp_path / "run" / "evaluation").glob("val-*")}
    assert pictures == {Path(mistake["picture"]).name for mistake in after["mistakes"]}


MODELS = """
import torch
from resnet18 import Classifier

class Silent(Classifier):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
"""


def test_a_step_that_returns_nothing_is_named(tmp_path: Path, lightning) -> None:
    (tmp_path / "mymodel.py").write_text(MODELS)
    limits = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.logger", "false")
    done = lightning("fit", "--config", CONFIG, *SMALL, *limits, "--model", "mymodel.Silent", "--run_dir", "run")
    assert done.status == 0, done.err
    found = kept(tmp_path / "run")
    assert found["reason"] == "the step of Silent returned no logits"
    assert found["scores"]["val/loss"] > 0
    assert "confusion" not in found


def test_a_run_that_cant_be_written_is_scored_all_the_same(trained: Path, tmp_path: Path, lightning) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / ".evaluation-test.json"
    path.mkdir()  # where the file would be written first
    done = lightning("test", "--ckpt_path", "run", "--trainer.logger", "false")
    assert done.status == 0
    assert "test/top1" in done.out
    assert "evaluation-test.json can't be written: Is a directory" in done.err
