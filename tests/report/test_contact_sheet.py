"""Pictures of batches and of single images."""

import io

import pytest
import torch
from PIL import Image

from resnet18.report.contact_sheet import contact_sheet, encoded


@pytest.mark.parametrize(
    ("channels", "height", "width", "shown"),
    [(1, 8, 8, 96), (2, 5, 9, 11 * 9), (3, 300, 40, 64), (4, 64, 64, 2 * 64)],  # pixels to a column
)
def test_the_picture_shows_images_of_any_shape(channels: int, height: int, width: int, shown: int) -> None:
    images = torch.randint(256, (9, channels, height, width), dtype=torch.uint8)
    captions = ["猫", "Zoë", "a name that is much too long for so small a picture", *"abcdef"]
    picture = contact_sheet(images, captions)
    assert picture.mode == "RGB"
    assert picture.width == 8 * (shown + 8) + 8


def test_a_small_image_is_kept_to_the_pixel_and_a_large_one_reduced() -> None:
    small = torch.randint(256, (3, 32, 20), dtype=torch.uint8)
    content, kind = encoded(small)
    assert kind == "png"
    assert Image.open(io.BytesIO(content)).tobytes() == small.permute(1, 2, 0).numpy().tobytes()
    content, kind = encoded(torch.randint(256, (1, 300, 400), dtype=torch.uint8))
    assert (kind, Image.open(io.BytesIO(content)).size) == ("jpeg", (128, 96))
    assert len(content) < 20_000
