"""Predictions: the model's own, as in validation, for any number of images; as rows, text, HTML and a frame."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, picture_folder
from python_runs import NET, Stripes, python_run
from torch import Tensor

import resnet18.analysis.predict
from resnet18 import Classifier, ImageFolder, ImageTensors, load_run
from resnet18.analysis.predict import SHOWN
from resnet18.runs import Run

CLASSES = ("<b>cat", "big box $5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("photographs")
    for part, each in (("train", 6), ("val", 3)):
        for label, name in enumerate(CLASSES):
            picture_folder(place / part, (name,), each)
            for file in (place / part / name).iterdir():
                picture(label, 40 + 3 * each, 30).save(file)
    data = ImageFolder(str(place), image_size=16, eval_share=0.75, batch_size=4, cache_dir=str(place / "cache"))
    return python_run(place / "model.ckpt", data, NET)


def test_photographs_are_scored_as_in_validation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run.evaluate()
    root = run.place.parent / "val"
    rows = run.predict([root / name for name in found.ids])
    assert [row["image"] for row in rows] == [str(root / name) for name in found.ids]
    assert [row["class"] for row in rows] == [CLASSES[label] for label in found.predicted]
    assert [row["probability"] for row in rows] == pytest.approx(found.confidence.tolist(), abs=1e-6)
    assert [dict(row["top"])[CLASSES[0]] for row in rows] == pytest.approx(found.probabilities[:, 0].tolist(), abs=1e-6)
    assert {len(row["top"]) for row in rows} == {2}
    assert all(row["top"][0] == [row["class"], row["probability"]] for row in rows)
    assert [len(row["top"]) for row in run.predict(root / found.ids[0], topk=1)] == [1]
    monkeypatch.setattr(resnet18.analysis.predict, "BATCH", 4)  # of six
    for one, other in zip(run.predict([root / name for name in found.ids]), rows, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_images_of_a_data_set_get_their_own_predictions(trained: Path) -> None:
    run = load_run(trained)
    run.data.setup("validate")
    assert isinstance(run.data.val, ImageTensors)
    images = run.data.val.images  # N×8×8×1
    run.model.train()
    rows = run.predict(images.numpy())
    assert not run.model.training
    with torch.no_grad():
        logits = run.model(images.permute(0, 3, 1, 2))
    assert [row["class"] for row in rows] == [str(label) for label in logits.argmax(1).tolist()]
    assert len(rows.pictures) == SHOWN
    assert "<p>and 119 more</p>" in rows._repr_html_()
    assert run.predict([]) == []


def test_they_show_as_a_gallery_and_as_a_table(run: Run, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "<i>&.png")
    rows = run.predict([tmp_path / "<i>&.png", picture(1)])
    html = rows._repr_html_()
    assert html.count("<img ") == html.count("<figure ") == 2
    assert "&lt;i&gt;&amp;.png" in html
    assert "&lt;b&gt;cat" in html
    assert "<b>cat" not in html
    assert f"{100 * rows[0]['probability']:.1f} %" in html
    (first, _) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(first).startswith(b"\x89PNG")
    head, *lines = repr(rows).splitlines()
    assert head.split() == ["image", "class", "probability", "top"]
    assert lines[1].startswith("1 ")
    assert rows.frame()["class"].tolist() == [row["class"] for row in rows]


def test_without_an_input_size_images_may_differ(tmp_path: Path) -> None:
    run = python_run(tmp_path / "model.ckpt", Stripes(), NET, input_size=None)
    rows = run.predict([picture(0), picture(1), picture(2, 20, 20)])
    assert [row["image"] for row in rows] == ["0", "1", "2"]
    alone = run.predict(picture(2, 20, 20))
    assert rows[2]["probability"] == pytest.approx(alone[0]["probability"], abs=1e-5)


class Several(Classifier):
    def make_metrics(self) -> dict:
        return {}

    def decide(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = logits.sigmoid()
        return probabilities > 0.5, probabilities


class Tags(Stripes):
    def changed(self, labels: Tensor) -> Tensor:
        return torch.stack([labels == 0, labels < 2, labels == 3], 1).float()

    def check_targets(self, targets: Tensor, name: str) -> None:
        assert targets.shape[1:] == (3,)

    def strata(self, targets: Tensor) -> Tensor:
        return targets[:, 0].long()


def test_several_classes_an_image_are_joined(tmp_path: Path) -> None:
    data = Tags(("a", "b", "c"))
    run = python_run(tmp_path / "model.ckpt", data, NET, Several, loss="binary_cross_entropy")
    data.setup("validate")
    assert isinstance(data.val, ImageTensors)
    images = data.val.images.permute(0, 3, 1, 2)
    last: Any = run.model.backbone.fc
    with torch.no_grad():
        last.bias += torch.tensor([99.0, 99.0, -99.0])
    rows = run.predict(images)
    assert {row["class"] for row in rows} == {"a+b"}
    assert all(len(row["probability"]) == 2 and min(row["probability"]) > 0.5 for row in rows)
    assert {row["top"][2][0] for row in rows} == {"c"}
    with torch.no_grad():
        last.bias -= torch.tensor([999.0, 999.0, 999.0])
    (row,) = run.predict(images[0])
    assert (row["class"], row["probability"], len(row["top"])) == ("", [], 3)
    assert "<figure" in run.predict(images)._repr_html_()
