"""A batch of images as one picture: enlarged where they are small, with the name of the class under each."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from resnet18.errors import RunError

COLUMNS = 8
SMALLEST, LARGEST = 96, 192  # pixels of an image's longer side in the picture
GAP, CAPTION, FONT_SIZE = 8, 20, 13
PAPER, INK = (255, 255, 255), (40, 40, 40)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> Image.Image:
    """A grid of up to eight columns.

    Args:
        images: uint8, N×C×H×W. One channel is shown as grey, three as colour; of four and more the first three, of two
            the first.
        labels: int64, N.
        class_names: In the order of the labels. A name that the font can't write is shown as its label's number.
    """
    height, width = images.shape[2:]
    factor = max(1, -(-SMALLEST // max(height, width)))
    shrink = min(1.0, LARGEST / max(height, width))
    size = (round(width * factor * shrink), round(height * factor * shrink))
    columns = min(COLUMNS, len(images))
    cell = (max(size[0], 48) + GAP, size[1] + CAPTION + GAP)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    channels = 3 if images.shape[1] >= 3 else 1
    for number, (pixels, label) in enumerate(zip(images[:, :channels].cpu(), labels.tolist(), strict=True)):
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        image = Image.fromarray(array if channels == 3 else array[:, :, 0]).convert("RGB")
        # Nearest, so that an enlarged pixel is seen as the one pixel that the network gets.
        image = image.resize(size, Image.Resampling.NEAREST if shrink == 1 else Image.Resampling.LANCZOS)
        left, top = GAP + number % columns * cell[0], GAP + number // columns * cell[1]
        space = cell[0] - GAP
        sheet.paste(image, (left + (space - size[0]) // 2, top))
        text = _fitting(_writable(class_names[label], label, font), font, space)
        draw.text((left + (space - font.getlength(text)) / 2, top + size[1] + 2), text, INK, font)
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG, or what else the ending names.

    Raises:
        RunError: Where that can't be done.
    """
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise RunError(f"output: {path} can't be written: {error}") from None


def _writable(name: str, label: int, font: Font) -> str:
    """The name as far as the font has its letters, without accents if need be, else the number of the class."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    for text in (name, plain):
        if text.isprintable() and not any(_missing(letter, font) for letter in text):
            return text
    return f"class {label}"


def _missing(letter: str, font: Font) -> bool:
    if not isinstance(font, ImageFont.FreeTypeFont):
        return not letter.isascii()  # Pillow's bitmap font, where it was built without FreeType
    drawn, nothing = (bytes(font.getmask(text)) for text in (letter, "\U0010ffff"))  # pyrefly: ignore[bad-argument-type]
    return not letter.isspace() and drawn == nothing


def _fitting(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
