"""LayerCAM points at what the predicted class is seen by, of any network with feature maps."""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy
import pytest
import torch
from conftest import picture
from python_runs import NET, Stripes, python_run
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from resnet18 import Classifier, class_activation, load_run
from resnet18.optimization import head_of

matplotlib.use("Agg")


class Spots(nn.Module):
    """The class is the colour of which there is most."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.act, self.pool, self.fc = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Linear(3, 3)
        nn.init.dirac_(self.conv.weight)
        self.fc.weight.data = torch.eye(3)
        self.fc.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.act(self.conv(x))).flatten(1))


def model(backbone: nn.Module, size: int = 16, classes: int = 3) -> Classifier:
    options: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3, "input_size": (3, size, size)}
    return Classifier(backbone, torch.optim.SGD, num_classes=classes, **options)


def test_it_lies_on_the_spot_of_the_predicted_class() -> None:
    images = numpy.zeros((2, 16, 16, 3), numpy.uint8)
    images[0, 2:6, 3:7, 1] = 200
    images[0, 10:14, 10:14, 2] = 100  # of another class
    images[1, 9:15, 9:15, 0] = 255
    cams = class_activation(model(Spots()), images)
    assert cams.shape == (2, 16, 16)
    assert cams.dtype == numpy.float32
    assert (cams[0] == (images[0, ..., 1] > 0)).all()
    assert (cams[1] == (images[1, ..., 0] > 0)).all()


@pytest.mark.parametrize(
    "backbone", [NET(num_classes=3), mobilenet_v3_small(num_classes=3)], ids=["ResNet", "MobileNet"]
)
def test_any_network_with_feature_maps_has_one(backbone: nn.Module) -> None:
    made = model(backbone, 64)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    torch.nn.init.normal_(
        head_of(made.backbone).get_parameter("weight"), std=1e-9
    )  # gradients as small are scaled all the same
    with torch.no_grad():
        cams = class_activation(made, [picture(number, 90, 80) for number in range(70)])  # in two batches
    assert cams.shape == (70, 64, 64)
    assert numpy.isfinite(cams).all()
    assert cams.min() >= 0
    assert ((cams.max((1, 2)) == 1) | (cams.max((1, 2)) == 0)).all()
    assert not made.training
    assert all(not part._forward_hooks for part in made.modules())
    assert class_activation(made, []).shape[0] == 0


def test_a_network_without_feature_maps_has_none() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    with pytest.raises(ValueError, match=r"^Sequential has no feature map of a height and width above 1$"):
        class_activation(model(flat), picture(0))


def test_it_is_drawn_over_the_images(tmp_path: Path, trained: Path) -> None:
    run = python_run(tmp_path / "model.ckpt", Stripes(("$low$", "high")))
    axes = run.plot_activation([picture(number) for number in range(7)])
    rows = run.predict([picture(number) for number in range(7)])
    assert len(axes) == 7
    for one, row in zip(axes, rows, strict=True):
        shown = f"{row['class']} {100 * row['probability']:.1f} %".replace("$", r"\$")
        assert one.get_title("center") == shown
        assert [image.get_array().shape for image in one.images] == [(16, 16, 3), (16, 16)]
    axes[0].figure.canvas.draw()
    digits = load_run(trained)
    assert class_activation(digits, numpy.zeros((1, 8, 8, 1), numpy.uint8)).shape == (1, 8, 8)
    assert digits.plot_activation(numpy.zeros((8, 8), numpy.uint8))[0].images[0].get_array().shape == (8, 8)
    plt.close("all")
