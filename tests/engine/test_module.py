"""Checkpoints of a module that was made in Python: what they hold, and what comes back."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_classifier import make, pixels, tiny, trainer, training
from torch import nn
from torch.optim import SGD

from resnet18 import Classifier
from resnet18.errors import RunError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Classifier]:
    """A classifier made in Python, trained for an epoch, and its checkpoint."""
    classifier = make(optimizer=partial(SGD, lr=0.1, momentum=0.9), class_names=list("abcdefghij"))
    runner = trainer(max_epochs=1)
    runner.fit(classifier, training(3))
    runner.save_checkpoint(tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt", classifier.eval()


def test_a_checkpoint_holds_tensors_and_plain_values_only(saved: tuple[Path, Classifier]) -> None:
    content = torch.load(saved[0], weights_only=True)
    assert content["hyper_parameters"] == {
        "schedule": None,
        "schedule_interval": None,
        "label_smoothing": 0.0,
        "channels_last": True,
        "compile": False,
        "mixup": 0.0,
        "cutmix": 0.0,
        "loss": "cross_entropy",
        "backbone_lr_scale": 1.0,
        "ema": 0.0,
        "metrics": None,
        "num_classes": 10,
        "mean": [0.3],
        "std": [0.4],
        "class_names": list("abcdefghij"),
        "input_size": None,
        "eval_share": 1.0,
        "interpolation": "bilinear",
    }


def test_a_classifier_comes_back_from_its_checkpoint_with_the_same_logits(saved: tuple[Path, Classifier]) -> None:
    path, classifier = saved
    back = Classifier.load_from_checkpoint(path, backbone=tiny(), optimizer=partial(SGD, lr=0.1)).eval()
    images = pixels(5).images.permute(0, 3, 1, 2)
    assert torch.equal(back(images), classifier(images))
    assert not torch.equal(make().eval()(images), classifier(images))
    assert (back.class_names, back.num_classes) == (list("abcdefghij"), 10)


def test_given_arguments_replace_the_checkpoints(saved: tuple[Path, Classifier]) -> None:
    back = Classifier.load_from_checkpoint(saved[0], backbone=tiny(), optimizer=SGD, label_smoothing=0.25)
    assert back.loss.label_smoothing == 0.25


def test_lightnings_own_arguments_of_loading_are_taken(saved: tuple[Path, Classifier]) -> None:
    places: list[str] = []

    def where(storage: Any, location: str) -> Any:
        places.append(location)
        return storage

    options: list[dict[str, Any]] = [{"map_location": "cpu"}, {"map_location": where}, {"strict": None}]
    for given in (*options, {"weights_only": True}, {"weights_only": None}):
        back = Classifier.load_from_checkpoint(saved[0], backbone=tiny(), optimizer=SGD, **given)
        assert (back.loss.label_smoothing, back.device.type) == (0.0, "cpu")
    assert set(places) == {"cpu"}
    more = nn.Sequential(*tiny().children(), nn.BatchNorm1d(10))
    with pytest.raises(RunError, match="does not fit the model it is for: Missing key"):
        Classifier.load_from_checkpoint(saved[0], backbone=more, optimizer=SGD)
    back = Classifier.load_from_checkpoint(saved[0], strict=False, backbone=more, optimizer=SGD)
    assert torch.equal(back.backbone.state_dict()["0.weight"], saved[1].backbone.state_dict()["0.weight"])


def test_a_checkpoint_of_another_network_is_an_error_that_names_it(saved: tuple[Path, Classifier]) -> None:
    with pytest.raises(RunError, match=f"{saved[0]} does not fit the model it is for: "):
        Classifier.load_from_checkpoint(saved[0], backbone=tiny(channels=3), optimizer=SGD)


def test_a_checkpoint_without_its_backbone_is_an_error_that_names_it(saved: tuple[Path, Classifier]) -> None:
    with pytest.raises(RunError, match=f"{saved[0]} does not describe its model: .*backbone"):
        Classifier.load_from_checkpoint(saved[0], optimizer=SGD)


@pytest.mark.parametrize("path", ["torch.hub.set_dir", "shutil.rmtree", "builtins.print"])
def test_a_checkpoint_that_names_foreign_code_is_refused(saved: tuple[Path, Classifier], path: str) -> None:
    hub = torch.hub.get_dir()
    content = torch.load(saved[0], weights_only=True)
    content["hyper_parameters"]["optimizer"] = {"class_path": path, "init_args": {}}
    torch.save(content, saved[0])
    with pytest.raises(RunError, match=str(saved[0])):
        Classifier.load_from_checkpoint(saved[0], backbone=tiny())
    assert torch.hub.get_dir() == hub


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"hyper_parameters": {}}])
def test_a_file_that_describes_no_model_is_an_error_that_names_it(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(RunError, match=f"{tmp_path}/model.ckpt does not describe a model"):
        Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
