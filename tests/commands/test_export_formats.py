"""The comparison that a file has to pass, and what is refused before a file is written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from resnet18 import Classifier, ResNet, load_run
from resnet18.commands import export_formats
from resnet18.commands.export_formats import Parity, RawPixels, compare, is_torchvisions, write
from resnet18.errors import RunError


@pytest.fixture(scope="module")
def model(trained: Path) -> Classifier:
    return load_run(trained).model


@pytest.fixture(scope="module")
def images(trained: Path) -> list[Tensor]:
    data = load_run(trained).data
    data.setup("test")
    return [image for images, *_ in data.evaluation_dataloader("test", 33) for image in images]


def test_the_model_itself_passes(model: Classifier, images: list[Tensor]) -> None:
    assert compare("safetensors", RawPixels(model), model, images) == Parity(33, 0.0, 0.0, 33)
    enlarged = [image.repeat_interleave(3, 1).repeat_interleave(2, 2) for image in images]  # 24×16
    assert compare("torch", RawPixels(model), model, enlarged) == Parity(33, 0.0, 0.0, 33)
    shifted = compare("onnx", lambda pixels: RawPixels(model)(pixels) + 5e-5, model, images)
    assert shifted.apart == pytest.approx(5e-5, rel=0.1)


def test_the_bound_grows_with_the_logits(model: Classifier, images: list[Tensor]) -> None:
    """Of float32 and thousands, 1e-3 is as good as can be had."""
    raw, last = RawPixels(model), model.backbone.get_submodule("fc")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight *= 1000
        try:
            compare("onnx", lambda pixels: raw(pixels) + 1e-3, model, images)
        finally:
            last.weight /= 1000
    with pytest.raises(RunError, match="logits are"):
        compare("onnx", lambda pixels: raw(pixels) + 1e-2, model, images)


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "too far": (lambda logits: logits + 3e-3, r"logits are 3\.0e-03 apart, and 0 of 100 images get another class"),
    "another class": (lambda logits: logits.flip(1), "of 100 images get another class"),
    "nothing": (lambda logits: logits * float("nan"), "logits are nan apart"),
    "one image of a batch": (
        lambda logits: torch.cat([logits[:1], logits[1:] + 1]),
        r"logits are 1\.0e\+00 apart, and 0 of 100",
    ),
    "a frozen batch": (
        lambda logits: logits + torch.zeros(1, 10) if len(logits) == 1 else logits.view(1, 10),
        "3×8×8×1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_a_fault_does_not_pass(fault: str, model: Classifier, images: list[Tensor]) -> None:
    change, problem = FAULTS[fault]
    with pytest.raises(RunError, match=problem):
        compare("onnx", lambda pixels: change(RawPixels(model)(pixels)), model, images)


def test_another_preprocessing_does_not_pass(model: Classifier, images: list[Tensor], monkeypatch) -> None:
    real = export_formats.centres
    monkeypatch.setattr(export_formats, "centres", lambda *given: 255 - real(*given))
    with pytest.raises(RunError, match=r"the torch file gives \d+ of 33 images another class than the run does"):
        compare("torch", RawPixels(model), model, images)


def test_an_onnx_file_holds_two_gigabytes(trained: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(export_formats, "PROTOBUF", 2**19)
    with pytest.raises(RunError, match=r"these weights are 0\.0 GB: --format torch"):
        write("onnx", tmp_path / "model.onnx", load_run(trained), {})


def test_which_networks_are_torchvisions() -> None:
    assert is_torchvisions(ResNet(num_classes=7))
    for network in (ResNet(stem="cifar"), ResNet(width=32), ResNet(in_channels=1), resnet18(), nn.Flatten()):
        assert not is_torchvisions(network)
