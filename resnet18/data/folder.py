"""Your own images: a folder for each class.

DIR/train/<class>/…    the images to train on
DIR/val/<class>/…      to validate on; without it they are cut from the training images
DIR/test/<class>/…     for `lightning test` and `predict`
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from resnet18.data.base import AtLeast1, Part
from resnet18.data.feeds.decode import SUFFIXES
from resnet18.data.feeds.files import Files
from resnet18.data.image_files import ImageFiles, Portion
from resnet18.errors import RunError


class ImageFolder(ImageFiles):
    """Images in ``root/train/<class>/`` and, optionally, ``root/val/<class>/`` and ``root/test/<class>/``.

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

    def __init__(
        self,
        root: str,
        crop: tuple[Portion, Portion] | None = (0.35, 1.0),
        flip: bool = True,
        batch_size: AtLeast1 = 64,
        **kwargs: Any,
    ) -> None:
        self.root = Path(root).expanduser()
        self.class_names = self._classes("train")
        self.has_val = "val" in self.folders and (self.root / self.folders["val"]).is_dir()
        self.has_test = (self.root / self.folders["test"]).is_dir()
        super().__init__(crop=crop, flip=flip, batch_size=batch_size, **kwargs)

    def _classes(self, part: Part) -> tuple[str, ...]:
        folder = self.root / self.folders[part]
        if not folder.is_dir():
            if part == "train" and self.root.is_dir() and self.root.resolve().name in self.folders.values():
                raise RunError(
                    f"data.root: {self.root} has no {folder.name}/; give {self.root.resolve().parent} instead"
                )
            missing = folder if self.root.is_dir() else self.root
            raise RunError(f"data.root: there is no directory {missing}; {folder / '<class>'}/ with images is expected")
        classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
        if part == "train" and len(classes) < 2:
            found = f"only {classes[0]}" if classes else "none"
            raise RunError(f"data.root: {folder} should have a directory for each class, at least two; it has {found}")
        return classes

    def load(self, part: Part) -> Files:
        folder, classes = self.root / self.folders[part], self._classes(part)
        if classes != self.class_names:
            known, train = self.class_names, self.root / self.folders["train"]
            lacking = {folder: sorted({*known} - {*classes}), train: sorted({*classes} - {*known})}
            differences = [f"{place} lacks {', '.join(names[:5])}" for place, names in lacking.items() if names]
            raise RunError(f"data.root: the parts should have the same classes: {'; '.join(differences)}")
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = sorted(images_under(folder, name))
            if not found and part == "train":
                raise RunError(f"data.root: {folder / name} holds no image ({', '.join(SUFFIXES)})")
            names += found
            labels += [label] * len(found)
        return Files(folder, names, torch.tensor(labels))


def images_under(root: Path, folder: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths from ``root`` of the image files in a folder of it and deeper; links are followed, but not in circles."""
    here = os.path.realpath(root / folder)
    if here in above:
        return
    for entry in os.scandir(here):
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from images_under(root, name, (*above, here))
        elif entry.name.lower().endswith(SUFFIXES):
            yield name
