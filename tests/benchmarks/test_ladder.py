"""The lowest rung of the ladder trains on the images of the data module; every rung is measured and shown."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import ladder
import pytest
import torch
from conftest import CONFIG, SMALL
from ladder import StockImages, stock_transform

from resnet18 import Digits, ImageTensors
from resnet18.engine.precision import has_bf16


def test_stock_images_are_those_of_the_data_module() -> None:
    data = Digits(translate=0)
    data.setup("fit")
    assert isinstance(data.train, ImageTensors)
    mean, std = torch.tensor(data.mean).view(-1, 1, 1), torch.tensor(data.std).view(-1, 1, 1)
    images = StockImages(data.train, stock_transform(data))
    assert len(images) == len(data.train)
    for number in (0, 7, len(images) - 1):
        image, label = images[number]
        pixels = data.train.images[number].permute(2, 0, 1) / 255
        torch.testing.assert_close(image, (pixels - mean) / std)
        assert label == int(data.train.labels[number])


@pytest.fixture
def no_compiler() -> Iterator[None]:
    """As on many machines; and compiling would take most of a minute."""
    import torch._inductor.config as inductor

    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        torch._dynamo.reset()
        yield


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_every_rung_is_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ladder, "filter_notices", lambda: None)
    monkeypatch.setattr(sys, "argv", ["ladder.py", "--config", str(CONFIG), *SMALL, "--steps", "2", "--json", "l.json"])
    ladder.main()
    shown, result = capfd.readouterr().out, json.loads(Path("l.json").read_text())
    names = ["float32, N×C×H×W, DataLoader", "+ channels last", "+ this project's resident feed"]
    if has_bf16("cpu"):
        names.insert(2, "+ bf16-mixed")
    assert [rung["name"] for rung in result["rungs"]] == names
    assert "torch.compile fails" in result["missing"]["+ compiled"]
    assert all(text in shown for text in (*names, *result["missing"].values()))
    assert [path.name for path in tmp_path.iterdir()] == ["l.json"]
