from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import picture
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from resnet18.data.feeds.decode import LARGE_FILE, UnreadableImage, centre, decode
from resnet18.engine.inputs import Interpolation


def array(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(numpy.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tiff", "a b.PNG", "猫 où.png"])
def test_lossless_files_give_their_pixels(name: str, checked: bool, tmp_path: Path) -> None:
    picture(1).save(tmp_path / name, lossless=True)
    pixels = decode(tmp_path / name, checked=checked)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, array(picture(1)))
    grey = decode(tmp_path / name, 1, checked=checked)
    assert torch.equal(grey, array(picture(1).convert("L")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_gives_what_pil_makes_of_it(mode: str, channels: int, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    picture(2, 97, 65).convert(mode).save(file, quality=90)
    expected = array(Image.open(file).convert("RGB" if channels == 3 else "L"))
    for checked in (False, True):
        pixels = decode(file, channels, checked=checked)
        assert pixels.shape == (channels, 65, 97)
        difference = (pixels.int() - expected.int()).abs()
        assert difference.float().mean() < 2  # the way from CMYK and to grey is rounded differently
        assert torch.equal(pixels, decode(file, channels))


def saved(image: Image.Image, **options: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


@pytest.mark.parametrize(
    ("name", "save", "expected"),
    [
        ("palette.png", saved(picture(3).quantize(256)), picture(3).quantize(256).convert("RGB")),
        ("alpha.png", saved(picture(3).convert("RGBA")), picture(3)),
        ("grey_alpha.png", saved(picture(3).convert("LA")), picture(3).convert("L").convert("RGB")),
        ("bits.png", saved(picture(3).convert("1")), picture(3).convert("1").convert("RGB")),
        (
            "animated.png",
            saved(picture(3), save_all=True, append_images=[picture(4), picture(5)]),
            picture(3),
        ),
        (
            "animated.webp",
            saved(picture(3), save_all=True, append_images=[picture(4)], lossless=True),
            picture(3),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_kinds_become_colour(
    name: str, save: Callable[[Path], None], expected: Image.Image, tmp_path: Path
) -> None:
    save(tmp_path / name)
    assert torch.equal(decode(tmp_path / name), array(expected))


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    values = numpy.arange(65536, dtype=numpy.uint16).reshape(256, 256)
    for suffix in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        pixels = decode(tmp_path / f"a.{suffix}")
        assert (pixels == torch.arange(256, dtype=torch.uint8).view(1, 256, 1)).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photograph_stands_upright(suffix: str, tmp_path: Path) -> None:
    upright = Image.new("RGB", (64, 32))
    upright.paste((255, 255, 255), (0, 0, 32, 32))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"a.{suffix}", exif=exif)
    for checked in (False, True):
        pixels = decode(tmp_path / f"a.{suffix}", checked=checked)
        assert pixels.shape == (3, 32, 64)
        assert pixels[..., :30].min() > 240
        assert pixels[..., 34:].max() < 15


def broken_files(place: Path) -> dict[str, str]:
    """Files that are no images, with the reason reported for each."""
    picture(6, 200, 200).save(place / "whole.jpg")
    picture(6, 200, 200).save(place / "whole.png")
    for suffix in ("jpg", "png"):
        content = (place / f"whole.{suffix}").read_bytes()
        (place / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    (place / "empty.jpg").touch()
    (place / "text.jpg").write_text("this is no picture")
    (place / "start.jpg").write_bytes(b"\xff\xd8\xff")
    (place / "nowhere.jpg").symlink_to(place / "missing.jpg")
    (place / "folder.jpg").mkdir()
    Image.new("1", (30000, 20000)).save(place / "huge.png")
    Image.new("1", (12000, 9000)).save(place / "large.png")
    Image.fromarray(numpy.zeros((4, 4), numpy.float32)).save(place / "float.tiff")
    return {
        "cut.jpg": "incomplete or truncated",
        "cut.png": "truncated",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image of a known kind",
        "start.jpg": "not an image of a known kind",
        "nowhere.jpg": "a link that points nowhere",
        "missing.jpg": "no such file",
        "folder.jpg": "Is a directory",
        "huge.png": "over the limit of 100 megapixels",
        "large.png": "12,000 × 9,000 pixels, over the limit of 100 megapixels",
        "float.tiff": "floating-point pixels",
    }


def test_every_unreadable_file_has_its_reason(tmp_path: Path) -> None:
    for name, reason in broken_files(tmp_path).items():
        for checked in (False, True):
            with pytest.raises(UnreadableImage, match=reason) as error:
                decode(tmp_path / name, checked=checked)
            assert "\n" not in str(error.value)
            assert ".cpp" not in str(error.value)


def test_a_large_photograph_is_decoded_smaller_but_never_too_small(tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    assert (tmp_path / "a.jpg").stat().st_size > LARGE_FILE
    for at_least, size in ((100, (113, 150)), (113, (225, 300)), (226, (450, 600)), (451, (900, 1200))):
        first = decode(tmp_path / "a.jpg", at_least=at_least)
        assert first.shape[1:] == size
        assert torch.equal(first, decode(tmp_path / "a.jpg", at_least=at_least, checked=True))
    assert decode(tmp_path / "a.jpg").shape[1:] == (900, 1200)


def test_a_small_photograph_is_not(tmp_path: Path) -> None:
    picture(7, 400, 400).save(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg", at_least=50).shape[1:] == (400, 400)


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (8, 8), (16, 16), (100, 17)])
@pytest.mark.parametrize(("share", "interpolation"), [(1.0, "bilinear"), (0.875, "bilinear"), (0.875, "bicubic")])
def test_the_centre_square_is_torchvisions_resize_and_crop(
    height: int, width: int, share: float, interpolation: Interpolation
) -> None:
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    square = centre(image, (16, 16), share, interpolation)
    resized = F.resize(image, [18 if share < 1 else 16], InterpolationMode(interpolation), antialias=True)
    assert square.shape == (3, 16, 16)
    assert torch.equal(square, F.center_crop(resized, [16, 16]))


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (24, 8), (1, 1), (12, 24)])
def test_the_centre_of_another_shape_is_covered_by_the_image(height: int, width: int) -> None:
    image = torch.arange(height, dtype=torch.uint8).view(1, height, 1).repeat(3, 1, width)
    view = centre(image, (12, 24))
    assert view.shape == (3, 12, 24)
    assert view[0, 6].unique().numel() == 1  # rows stay rows
    assert torch.equal(centre(image, (height, width)), image)
