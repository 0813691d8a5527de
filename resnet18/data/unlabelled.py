"""Images without labels, for ``lightning predict --images``: prepared as the network's own test images."""

import difflib
import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from resnet18.data.base import AtLeast0, AtLeast1, ImageDataModule, Part
from resnet18.data.feeds.decode import SUFFIXES
from resnet18.data.feeds.files import Files, Names
from resnet18.data.feeds.order import Shard
from resnet18.data.feeds.unchecked import UncheckedLoader
from resnet18.data.folder import images_under
from resnet18.engine.inputs import Interpolation
from resnet18.errors import RunError


class Unlabelled(ImageDataModule):
    """Image files, all below directories, and all that match patterns, each once and in the order given.

    No file is opened before its batch is due. Files in directories and of patterns count as images by their names'
    endings; hidden ones never do. All arguments but the first and the last two come from a checkpoint.

    Args:
        images: A path or a pattern, or several; they may be set later too.
        class_names: In the order of the logits.
        mean: Of each channel, with pixels from 0 to 1.
        std: Standard deviation of each channel.
        input_size: Channels, height and width that the network sees.
        eval_share: How much of an image's shorter side is kept.
        interpolation: How an image is resized.
        eval_batch_size: Images a step.
        num_workers: Processes that decode; by default one fewer than there are CPUs, up to 16.
        seed: Of nothing here; the command line gives one to every source.

    Raises:
        RunError: In ``prepare_data``, for a path that is not there or holds no image.
    """

    kind, feed = Files, "streamed"

    def __init__(
        self,
        images: str | Sequence[str] = (),
        *,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        input_size: Sequence[int],
        eval_share: float = 1.0,
        interpolation: Interpolation = "bilinear",
        eval_batch_size: AtLeast1 = 128,
        num_workers: AtLeast0 | None = None,
        seed: int = 0,
    ) -> None:
        channels, height, width = input_size
        if channels not in (1, 3):
            raise ValueError(f"images are decoded to 1 or 3 channels, not to the {channels} of {list(input_size)}")
        self.class_names, self.mean, self.std = tuple(class_names), mean, std
        self.input_size, self.eval_share, self.interpolation = (channels, height, width), eval_share, interpolation
        super().__init__(eval_batch_size=eval_batch_size, seed=seed)
        self.images, self.num_workers = [images] if isinstance(images, str) else images, num_workers
        self.unreadable: dict[int, str] = {}  # reasons by position, until the table takes them out

    def prepare_data(self) -> None:
        if self.test is None:
            self.test = self.load("test")

    def setup(self, stage: str) -> None:
        if self.trainer is None or self.trainer.is_global_zero:
            self.prepare_data()
        if self.trainer is not None:  # files may be added meanwhile, and all ranks need one list
            self.test = self.trainer.strategy.broadcast(self.test)

    def load(self, part: Part) -> Files:
        if not self.images:
            raise RunError("images: none are given")
        found = [_found(name) for name in self.images]
        if len(found) == 1:
            ((root, names),) = found  # those below a directory begin there
        else:
            root, unique = Path(), dict[str, str]()
            for place, names in found:
                for name in names:
                    path = str(place / name)
                    unique.setdefault(os.path.abspath(path), path)
            names = list(unique.values())
        return Files(root, Names(names), torch.zeros(len(names), dtype=torch.int64))  # the labels are not used

    def stream(self, images: Files, shard: Shard) -> UncheckedLoader:
        view = (self.input_size, self.eval_share, self.interpolation)
        loader = UncheckedLoader(images, self.eval_batch_size, *view, num_workers=self.workers(), shard=shard)
        self.unreadable = loader.unreadable
        return loader


def _found(name: str) -> tuple[Path, list[str]]:
    """A directory with the names of all images below it, or the current one with the paths of a file or a pattern."""
    path = os.path.expanduser(name)
    try:
        if os.path.isdir(path):
            if names := sorted(images_under(Path(path))):
                return Path(path), names
            raise RunError(f"images: {path} holds no image ({', '.join(SUFFIXES)})")
        if os.path.exists(path):
            return Path(), [path]
        if not set(path) & set("*?["):
            raise RunError(f"images: there is no {name or repr(name)}{_nearest(Path(path))}")
        paths: list[str] = []
        for match in sorted(glob.glob(path, recursive=True)):
            if os.path.isdir(match):
                paths += [os.path.join(match, below) for below in sorted(images_under(Path(match)))]
            elif match.lower().endswith(SUFFIXES):
                paths.append(match)
    except OSError as error:
        raise RunError(f"images: {error.filename} can't be read: {error.strerror}") from None
    if not paths:
        raise RunError(f"images: {name} matches no image ({', '.join(SUFFIXES)})")
    return Path(), list(dict.fromkeys(paths))


def _nearest(path: Path) -> str:
    """What is there of a similar name, as the end of a sentence."""
    while not path.parent.exists():
        path = path.parent
    with suppress(OSError):
        if near := difflib.get_close_matches(path.name, os.listdir(path.parent), n=1):
            return f"; did you mean {path.parent / near[0]}?"
    return ""
