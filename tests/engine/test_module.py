"""Checkpoints of a module that was made in Python: what they hold, and what comes back."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture_folder
from test_classifier import make, pixels, tiny, trainer, training
from torch import nn
from torch.optim import SGD

from resnet18 import Classifier, Digits, ImageFolder, ResNet
from resnet18.errors import RunError, UsageError

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
    with pytest.raises(
        RunError, match=f"{saved[0]} does not describe its model: its backbone .*backbone=… takes it, or"
    ):
        Classifier.load_from_checkpoint(saved[0])


def test_no_optimizer_is_needed_to_load_a_model(saved: tuple[Path, Classifier]) -> None:
    images = pixels(5).images.permute(0, 3, 1, 2)
    for backbone in (tiny(), tiny, partial(tiny, channels=1), lambda num_classes: tiny(num_classes)):
        back = Classifier.load_from_checkpoint(saved[0], backbone=backbone).eval()
        assert torch.equal(back(images), saved[1](images))
    with pytest.raises(RunError, match="loaded without an optimizer"):
        back.configure_optimizers()
    with pytest.raises(TypeError, match=r"^backbone: <function .*> makes a list, not a torch\.nn\.Module$"):
        Classifier.load_from_checkpoint(saved[0], backbone=lambda num_classes: [num_classes])
    with pytest.raises(TypeError, match=r"^backbone: expected a network or what makes one, not a str$"):
        Classifier.load_from_checkpoint(saved[0], backbone="resnet18")


class Sharp(Classifier):
    def __init__(self, *args: Any, sharpness: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sharpness = sharpness


def test_a_model_takes_what_its_data_know_and_its_checkpoint_describes_it(tmp_path: Path) -> None:
    data = ImageFolder(str(picture_folder(tmp_path / "train").parent), image_size=16, eval_share=0.8, batch_size=4)
    backbone, optimizer = partial(ResNet, width=8, in_channels=3), partial(SGD, lr=0.1)
    model = Sharp.for_data(data, backbone, optimizer, sharpness=2.0, label_smoothing=0.1, interpolation="bicubic")
    assert {name: getattr(model, name) for name in ("num_classes", "class_names", "input_size", "eval_share")} == {
        **{"num_classes": 2, "class_names": ["cat", "dog"], "input_size": (3, 16, 16), "eval_share": 0.8}
    }
    assert model.interpolation == "bicubic"
    assert model.mean.flatten().tolist() == pytest.approx(list(data.mean))
    runner = trainer(max_epochs=1, limit_train_batches=1)
    runner.fit(model, datamodule=data)
    runner.save_checkpoint(tmp_path / "model.ckpt", weights_only=False)
    back = Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert isinstance(back, Sharp)
    assert (back.sharpness, back.interpolation, back.eval_share) == (2.0, "bicubic", 0.8)
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in back.state_dict().items())
    with pytest.raises(UsageError, match=r"^data: .* has no mean; a source has, for example: mean = \[0\.5\]$"):
        Classifier.for_data(
            type("Bare", (Digits,), {"__init__": lambda self: None, "input_size": (1, 8, 8)})(), *[SGD] * 2
        )


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
