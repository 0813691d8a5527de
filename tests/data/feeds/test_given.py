"""Images of any kind become what a network sees in validation."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from conftest import picture
from PIL import Image
from torch import Tensor

from resnet18.data.feeds.decode import centre, pixels_of
from resnet18.data.feeds.given import views
from resnet18.errors import RunError


def model(channels: int = 3, size: tuple[int, int] | None = (12, 16), **changed: Any) -> Any:
    """What is asked of a model."""
    known = {"input_size": (channels, *size) if size else None, "mean": [0.5] * channels}
    return SimpleNamespace(**{**known, "eval_share": 0.875, "interpolation": "bicubic", **changed})


@pytest.fixture
def kinds(tmp_path: Path) -> dict[str, Any]:
    """One picture in all forms that are taken."""
    image = picture(1)
    image.save(tmp_path / "one.png")
    array = numpy.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return {
        **{"str": str(tmp_path / "one.png"), "path": tmp_path / "one.png", "pil": image, "array": array},
        **{"arrays": array[None], "tensor": tensor, "tensors": tensor[None], "list": [array], "mixed": [[tensor], ()]},
        **{"rgba": image.convert("RGBA"), "generator": (one for one in [image]), "strided": array[:, ::-1][:, ::-1]},
        "four": torch.cat([tensor, tensor[:1]]),
    }


def test_every_kind_gives_the_same_view(kinds: dict[str, Any]) -> None:
    expected = centre(pixels_of(picture(1)), (12, 16), 0.875, "bicubic")
    for kind, given in kinds.items():
        ((name, seen),) = views(model(), given)
        assert torch.equal(seen, expected), kind
        assert name == (str(kinds["path"]) if kind in ("str", "path") else "0")
    both = list(views(model(), [kinds["path"], kinds["arrays"].repeat(3, 0), kinds["pil"]]))
    assert [name for name, _ in both] == [str(kinds["path"]), "1", "2", "3", "4"]


def test_without_a_size_images_are_taken_as_they_are(kinds: dict[str, Any]) -> None:
    ((_, seen),) = views(model(size=None), kinds["array"])
    assert seen.shape == (3, 30, 40)
    assert list(views(model(), [])) == list(views(model(), numpy.zeros((0, 9, 9, 3), numpy.uint8))) == []


def test_channels_are_converted_and_grey_networks_say_so_once(kinds: dict[str, Any]) -> None:
    grey, expected = picture(1).convert("L"), pixels_of(picture(1), 1)
    for given in (grey, numpy.asarray(grey), torch.from_numpy(numpy.array(grey))[None], grey.convert("LA")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ((_, alone),) = views(model(1, (30, 40), eval_share=1.0), given)
        ((_, three),) = views(model(3, (30, 40), eval_share=1.0), given)
        assert torch.equal(alone, expected)
        assert torch.equal(three, expected.expand(3, -1, -1))
    for kind in ("path", "array", "tensor", "pil", "rgba"):
        with pytest.warns(UserWarning, match="the network was trained on grey images; colours are converted") as said:
            seen = [one for _, one in views(model(1, (30, 40), eval_share=1.0), [kinds[kind]] * 3)]
        assert len(said) == 1
        assert torch.equal(seen[2], expected)
    five = torch.zeros(5, 9, 9, dtype=torch.uint8)
    ((_, seen),) = views(model(5, (9, 9)), five)
    assert seen.shape == (5, 9, 9)
    with pytest.raises(ValueError, match="image 0: the network takes 3 channels, not 5"):
        list(views(model(), five))
    with pytest.raises(ValueError, match="the network takes 5 channels, not 3"):
        list(views(model(5, (9, 9)), kinds["path"]))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("https://example.org/cat.jpg", RunError, "is a web address, and nothing is downloaded here"),
        (".", RunError, r"is a directory: sorted\(Path\('\.'\)\.rglob\('\*\.jpg'\)\) lists its files"),
        ("nowhere.jpg", RunError, r"^nowhere\.jpg: no such file$"),
        (["empty.jpg"], RunError, r"^empty\.jpg: the file is empty$"),
        (Path("text.png"), RunError, r"^text\.png: not an image of a known kind$"),
        (Image.new("F", (9, 9)), RunError, r"^0: floating-point pixels"),
        (
            numpy.zeros((9, 9, 3)),
            TypeError,
            r"uint8, not float64.* of floats from 0 to 1 these are \(255 \* x\)\.round",
        ),
        (torch.zeros(3, 9, 9), TypeError, "uint8, not float32"),
        (numpy.zeros((9, 9), numpy.int64), TypeError, "uint8, not int64, for the network normalises them$"),
        (numpy.zeros(9, numpy.uint8), ValueError, "an array of H×W, H×W×C or N×H×W×C, not of 9$"),
        (torch.zeros(9, 9, dtype=torch.uint8), ValueError, "a tensor of C×H×W or N×C×H×W, not of 9×9$"),
        (numpy.zeros((0, 9, 3), numpy.uint8), ValueError, "not of 0×9×3"),
        ({"image": 1}, TypeError, "expected a path, a PIL image, .*, not a dict"),
        (b"\xff\xd8", TypeError, "not a bytes"),
        (None, TypeError, "not a NoneType"),
    ],
)
def test_what_is_no_image_is_refused(
    given: Any, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jpg").touch()
    Path("text.png").write_text("no image")
    with pytest.raises(error, match=message) as raised:
        list(views(model(), given))
    assert "\n" not in str(raised.value)


def test_one_image_at_a_time_is_held() -> None:
    asked: list[int] = []

    def many() -> Any:
        for number in range(5):
            asked.append(number)
            yield torch.zeros(3, 12, 16, dtype=torch.uint8)

    found = views(model(), many())
    assert isinstance(next(found)[1], Tensor)
    assert asked == [0]
