"""The data as the network will get them: the balance of the classes, the pixels, and images that are there twice."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from resnet18.cli.explain import parameter_names
from resnet18.data.base import ImageDataModule, Part
from resnet18.errors import RunError, counted

Level = Literal["ok", "warn", "wrong", "skip"]


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Args:
        level: ``skip`` where the look could not be taken.
        name: A word or two.
        numbers: What was measured, on one line.
        advice: What it means and what to do, a sentence each; none where all is well.
        table: Rows of words below it, the first of them the head.
    """

    level: Level
    name: str
    numbers: str
    advice: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        numbers: str,
        wrong: Sequence[str] = (),
        warn: Sequence[str] = (),
        table: Sequence[tuple[str, ...]] = (),
    ) -> Self:
        """A finding at the level of the worst that was found."""
        level: Level = "wrong" if wrong else "warn" if warn else "ok"
        return cls(level, name, numbers, (*wrong, *warn), tuple(table))


def some(names: Sequence[str], at_most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


IMBALANCE = 10
"""How many times the smallest class the largest may be: beyond, 91 % top-1 may mean that a class is never named."""
LOOKED_AT = 2048
"""Training images whose pixels are measured: with images whose means differ by half a standard deviation, as those of
photographs do, their mean is known to a hundredth."""
TOLERANCE = 0.1
"""How far from 0 and 1 the normalised pixels' mean and standard deviation may be: ten times what chance makes of
:data:`LOOKED_AT` images, and half of what the usual slip makes, the mean of the images' own deviations (0.20 instead of
0.25 on CIFAR-10)."""
STREAMED_AT_MOST = 4096
"""Images that are decoded from files to look for duplicates; resident ones are compared however many they are."""
SERIOUS = 0.01
"""Share of duplicates from which they are wrong: they may then move top-1 by a whole point."""


def balance(data: ImageDataModule) -> Finding:
    """How many images train and validate, and how they spread over the classes; ``setup`` refuses one without any."""
    train, val = _labels(data)
    sizes = f"{len(train):,} to train, {len(val):,} to validate, {data.num_classes} classes"
    counts, val_counts = (part.bincount(minlength=data.num_classes) for part in (train, val))
    low, high = int(counts.argmin()), int(counts.argmax())
    few, many = int(counts[low]), int(counts[high])
    unseen = [data.class_names[label] for label in (val_counts == 0).nonzero().flatten().tolist()]
    warn = []
    if many > IMBALANCE * few:
        warn.append(
            f"the largest class has {many / few:.0f} times the images of the smallest: top-1 hides the small ones; "
            "look at each class's own, and weigh or resample"
        )
    if unseen:
        warn.append(f"no validation image of {some(unseen)}: val/top1 says nothing about it; raise data.val_share")
    ends = f"{few:,} ({data.class_names[low]}) to {many:,} ({data.class_names[high]})" if few < many else f"{few:,}"
    return Finding.of("classes", f"{sizes}, {ends} training images in each", warn=warn)


def pixels(data: ImageDataModule) -> Finding:
    """Mean and standard deviation of each channel as measured, against those that normalise the images."""
    histogram = torch.zeros(data.input_size[0], 256, dtype=torch.int64)
    count = blank = 0
    for images, _ in _images(data, "train", LOOKED_AT):
        for channel, values in enumerate(images.transpose(0, 1)):
            histogram[channel] += values.flatten().bincount(minlength=256).cpu()
        flat = images.flatten(2)
        blank += int((flat.amin(2) == flat.amax(2)).all(1).sum())
        count += len(images)
    share = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256).double() / 255
    mean = share @ values
    std = (share * (values - mean[:, None]).square()).sum(1).sqrt()
    given_mean, given_std = torch.tensor(data.mean).double(), torch.tensor(data.std).double()
    shift, scale = (mean - given_mean) / given_std, std / given_std
    numbers = f"{counted(count, 'image')}, mean {_vector(mean)}, std {_vector(std)}"
    numbers = f"{numbers}, normalised {_vector(shift)}, {_vector(scale)}"
    wrong, warn = [], []
    if blank == count:
        wrong.append("every image is of one colour: look at the picture, and at how the files are read")
    elif flat_channels := (std == 0).nonzero().flatten().tolist():
        wrong.append(f"channel {some([str(c) for c in flat_channels])} has the same value everywhere: it tells nothing")
    elif shift.abs().max() > TOLERANCE or (scale - 1).abs().max() > TOLERANCE:
        warn.append(
            f"more than {TOLERANCE} from 0 and 1, which weights expect at their start; "
            f"{_where_to_write(data)} mean: {_vector(mean)}, std: {_vector(std)}, unless given weights want others"
        )
    if 0 < blank < count:
        warn.append(f"{blank:,} of {count:,} images are of one colour: see whether they belong")
    return Finding.of("pixels", numbers, wrong, warn)


def duplicates(data: ImageDataModule) -> list[Finding]:
    """Images that both train and validate, and images that train under two labels; equal in every pixel."""
    train_labels, val_labels = _labels(data)
    count = len(train_labels) + len(val_labels)
    if data.feed != "resident" and count > STREAMED_AT_MOST:
        return [Finding("skip", "leaks", f"not compared: {counted(count, 'image')} in files")]
    first: dict[bytes, int] = {}
    repeated, conflicts = 0, []
    for digest, position in _digests(data, "train"):
        twin = first.setdefault(digest, position)
        repeated += twin != position
        if train_labels[twin] != train_labels[position]:
            conflicts.append((twin, position))
    leaks = [(first[digest], position) for digest, position in _digests(data, "val") if digest in first]
    compared = f"of {len(val_labels):,} validation images, each against {len(train_labels):,}"
    found = []
    if leaks:
        pairs = [f"{position} (training image {twin})" for twin, position in leaks]
        found.append(
            f"validation image {some(pairs)} also trains, so val/top1 flatters; "
            "remove the copies, or keep all of one image on one side"
        )
    serious = len(leaks) > SERIOUS * len(val_labels)
    leaking = Finding.of("leaks", f"{len(leaks):,} {compared}", *((found, ()) if serious else ((), found)))
    found = []
    if conflicts:
        name = [data.class_names[label] for label in train_labels.tolist()]
        pairs = [f"{one} ({name[one]}) = {other} ({name[other]})" for one, other in conflicts]
        found.append(f"training image {some(pairs)}: one image under two names can't be learnt; correct the labels")
    serious = len(conflicts) > SERIOUS * len(train_labels)
    numbers = f"{len(conflicts):,} of {len(train_labels):,} training images under two labels, {repeated:,} there twice"
    return [leaking, Finding.of("labels", numbers, *((found, ()) if serious else ((), found)))]


def _labels(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    assert data.train is not None, "call setup('fit') first"
    assert data.val is not None
    return data.train.labels.cpu(), data.val.labels.cpu()


def _images(data: ImageDataModule, part: Part, at_most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    for images, _, positions in data.evaluation_dataloader(part, at_most=at_most):
        yield images, positions.cpu()


def _digests(data: ImageDataModule, part: Part) -> Iterator[tuple[bytes, int]]:
    for images, positions in _images(data, part):
        rows = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        for row, position in zip(rows, positions.tolist(), strict=True):
            yield hashlib.blake2b(row, digest_size=16).digest(), position


def _where_to_write(data: ImageDataModule) -> str:
    if "mean" in parameter_names(type(data)):
        return "under data, init_args write"
    return f"in {type(data).__name__} write"


def _vector(values: Tensor) -> str:
    return f"[{', '.join(f'{value:z.3f}' for value in values.tolist())}]"


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
