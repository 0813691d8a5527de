"""One's own images: a folder for each class.

DIR/train/<class>/…    the images to train on
DIR/val/<class>/…      to validate on; without it they are cut from the training images
DIR/test/<class>/…     for `lightning test` and `predict`
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from resnet18.data.base import Part
from resnet18.data.feeds.decode import SUFFIXES
from resnet18.data.feeds.files import Files
from resnet18.data.image_files import ImageFiles
from resnet18.errors import RunError


class ImageFolder(ImageFiles):
    """Images in ``root/train/<class>/`` and, if they are there, ``root/val/<class>/`` and ``root/test/<class>/``.

    The classes are the directories of ``train``, in the order of their names; their images may lie deeper. Files count
    as images by their names' endings, hidden files never do.

    Args:
        root: The directory that holds ``train``.
        crop: Least and greatest share of an image's area that a random crop takes.
        flip: Mirror training images left and right, half of the time.
        batch_size: Training images a step, on each rank.
        kwargs: The rest is :class:`~resnet18.data.image_files.ImageFiles`'s.

    Raises:
        RunError: For directories that are missing, and for classes that differ between the parts or have no images.
    """

    folders: dict[Part, str] = {"train": "train", "val": "val", "test": "test"}  # noqa: RUF012
    """The directory of each part."""

    def __init__(
        self,
        root: str,
        crop: tuple[float, float] | None = (0.35, 1.0),
        flip: bool = True,
        batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        self.root = Path(root).expanduser()
        self.class_names = self._classes("train")
        self.has_val = "val" in self.folders and (self.root / self.folders["val"]).is_dir()
        self.has_test = (self.root / self.folders["test"]).is_dir()
        super().__init__(crop=crop, flip=flip, batch_size=batch_size, **kwargs)

    def _classes(self, part: Part) -> tuple[str, ...]:
        place = self.root / self.folders[part]
        if not place.is_dir():
            if part == "train" and self.root.is_dir() and self.root.resolve().name in self.folders.values():
                raise RunError(
                    f"data.root: {self.root} has no {place.name}/; give {self.root.resolve().parent} instead"
                )
            missing = place if self.root.is_dir() else self.root
            raise RunError(f"data.root: there is no directory {missing}; {place / '<class>'}/ with images is expected")
        classes = tuple(sorted(entry.name for entry in place.iterdir() if entry.is_dir() and entry.name[0] != "."))
        if part == "train" and len(classes) < 2:
            found = f"only {classes[0]}" if classes else "none"
            raise RunError(f"data.root: {place} should have a directory for each class, at least two; it has {found}")
        return classes

    def load(self, part: Part) -> Files:
        """The files of one part and their labels; see :class:`~resnet18.data.feeds.files.Files`."""
        place, classes = self.root / self.folders[part], self._classes(part)
        if classes != self.class_names:
            more = sorted(set(classes) - set(self.class_names))
            fewer = sorted(set(self.class_names) - set(classes))
            differences = [f"{place} lacks {', '.join(fewer[:5])}"] if fewer else []
            differences += [f"{self.root / self.folders['train']} lacks {', '.join(more[:5])}"] if more else []
            raise RunError(f"data.root: the parts should have the same classes: {'; '.join(differences)}")
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = sorted(images_under(place, name))
            if not found and part == "train":
                raise RunError(f"data.root: {place / name} holds no image ({', '.join(SUFFIXES)})")
            names += found
            labels += [label] * len(found)
        return Files(place, names, torch.tensor(labels, dtype=torch.int64))


def images_under(place: Path, folder: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths of the image files in a directory and those below it, links followed, circles of them not.

    Args:
        place: Where the paths start.
        folder: The path of the directory from there.
        above: The real paths of the directories on the way down.
    """
    here = os.path.realpath(place / folder)
    if here in above:
        return
    with os.scandir(place / folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from images_under(place, name, (*above, here))
            elif entry.name.lower().endswith(SUFFIXES):
                yield name
