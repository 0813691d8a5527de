"""The base of sources of image files: decoded once and resident if they fit in memory, else streamed by workers.

Such a source is a subclass with ``class_names`` and a ``load`` that lists files and labels;
:mod:`resnet18.data.folder` is an example.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from pydantic import Field
from torch import Tensor

from resnet18.data.base import AtLeast0, AtLeast1, ImageDataModule, Part
from resnet18.data.feeds.augment import Augmentation, Policy
from resnet18.data.feeds.cache import DecodedFiles, decode_or_load
from resnet18.data.feeds.feed_module import Images
from resnet18.data.feeds.files import Files, Geometry
from resnet18.data.feeds.resident import ImageTensors
from resnet18.engine.inputs import Interpolation
from resnet18.errors import RunError, counted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's weights expect
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # the same of grey values
SHOWN = 40  # broken files named on the terminal; all of them are in the cache's list
Portion = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class ImageFiles(ImageDataModule):
    """Labelled image files, scaled to one size.

    The *resident* feed decodes every file once, to the evaluation square, and augments that. The *streamed* feed
    decodes a file whenever it is needed: random crops come from the whole image in full resolution, and augmentations
    of one image at a time are possible.

    Args:
        image_size: Side of a training image in pixels.
        eval_size: Side of any other image; by default the same.
        eval_share: How much of an image's shorter side the square in its middle takes, for evaluation.
        interpolation: How an image is resized for evaluation, and for the resident feed: ``bilinear`` or ``bicubic``.
        first_size: Side of a training image in the first epochs, growing to ``image_size``; streamed feed only.
        growth: Shares of the run's epochs between which it grows.
        channels: 3 for colour, 1 for grey; files of the other kind are converted.
        crop: Least and greatest share of an image's area that a random crop takes.
        policy: ``trivial`` for TrivialAugment, ``rand`` for RandAugment; streamed feed only.
        magnitude: Of RandAugment, 0 to 30.
        erasing: Probability of erasing a random rectangle; streamed feed only.
        feed: ``auto`` is resident if that feed supports the other arguments and the decoded images fit the limit.
        resident_limit_gb: That limit, in 10⁹ bytes of memory on the training device.
        num_workers: Processes that decode for the streamed feed; by default one fewer than there are CPUs, up to 16.
        broken: What to do about files that can't be read. In either case all are listed before the training.
        cache_dir: Directory for decoded images; by default the user's cache, ``~/.cache/resnet18`` on Linux.
        mean: Of each channel, with pixels from 0 to 1; by default ImageNet's.
        std: Standard deviation of each channel, by default ImageNet's.
        kwargs: The rest is :class:`~resnet18.data.base.ImageDataModule`'s.

    Raises:
        ValueError: For two values that contradict each other.
        RunError: In ``setup``, for files that can't be read.
    """

    kind = Files

    def __init__(
        self,
        image_size: AtLeast1 = 128,
        eval_size: AtLeast1 | None = None,
        eval_share: Portion = 1.0,
        interpolation: Interpolation = "bilinear",
        first_size: AtLeast1 | None = None,
        growth: tuple[Probability, Probability] = (0.75, 0.85),
        channels: Literal[1, 3] = 3,
        crop: tuple[Portion, Portion] | None = None,
        policy: Policy = "none",
        magnitude: Annotated[int, Field(ge=0, le=30)] = 9,
        erasing: Probability = 0.0,
        feed: Literal["auto", "resident", "streamed"] = "auto",
        resident_limit_gb: Annotated[float, Field(ge=0)] = 4.0,
        num_workers: AtLeast0 | None = None,
        broken: Literal["fail", "skip"] = "fail",
        cache_dir: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        evaluated = eval_size or image_size
        self.geometry = Geometry(image_size, evaluated, eval_share, channels, first_size, growth, interpolation)
        self.eval_share, self.interpolation = eval_share, interpolation
        self.input_size = (channels, self.geometry.evaluation, self.geometry.evaluation)
        self.mean = mean or (IMAGENET_MEAN if channels == 3 else GREY_MEAN)
        self.std = std or (IMAGENET_STD if channels == 3 else GREY_STD)
        if first_size is not None and first_size > image_size:
            raise ValueError(f"first_size must be at most image_size, {image_size}, not {first_size}")
        if growth[0] > growth[1]:
            raise ValueError(f"growth must be two ascending shares of the run, not {list(growth)}")
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must have {channels} values, one for each of the channels")
        super().__init__(**kwargs)
        self.crop, self.policy, self.magnitude, self.erasing = crop, policy, magnitude, erasing
        self.resident_limit_gb, self.num_workers, self.broken = resident_limit_gb, num_workers, broken
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else None
        self.wanted_feed, self.feed_reason = feed, ""
        self._decoded: dict[Part, tuple[Files, DecodedFiles]] = {}
        if (reason := self._only_streamed()) and feed == "resident":
            raise ValueError(f"feed is resident, but {reason}")

    @property
    def augmentation(self) -> Augmentation:
        more = {"crop": self.crop, "policy": self.policy, "magnitude": self.magnitude, "erasing": self.erasing}
        return replace(super().augmentation, **more)

    def _only_streamed(self) -> str:
        """Why the resident feed does not support the arguments; empty if it does."""
        if self.augmentation.one_by_one:
            return "policy and erasing are done to one image at a time"
        if self.geometry.first is not None:
            return "first_size lets the images grow"
        return "eval_size is not image_size" if self.geometry.evaluation != self.geometry.train else ""

    def prepare_data(self) -> None:
        """Decodes or checks every file for the Trainer, once a machine: other ranks find it in the cache."""
        if self.trainer is not None and (stage := self.trainer.state.fn):
            self._decode(stage, with_test=stage == "fit")

    def setup(self, stage: str) -> None:
        self._decode(stage, with_test=stage == "fit" and self.trainer is None)
        super().setup(stage)

    def _decode(self, stage: str, with_test: bool) -> None:
        """Decodes or checks the files of a stage, and chooses its feed."""
        # `with_test` checks the test images too, so that `lightning test` does not fail on them after a long training;
        # ImageNet's 50,000 add a twenty-fifth, once.
        parts: tuple[Part, ...] = ("train", "val") if self.has_val else ("train",)
        parts = ("test",) if stage in ("test", "predict") else parts
        if all(part in self._decoded for part in parts):
            return
        listed: dict[Part, Files] = {part: self._checked(part) for part in parts}
        self.feed, self.feed_reason = self._feed_of(sum(map(len, listed.values())))
        self._decoded |= {part: self._read(files, self.feed) for part, files in listed.items()}
        found = [self._decoded[part] for part in parts]
        if with_test and self.has_test:
            try:
                files = self._checked("test")
                found.append(self._read(files, self._feed_of(len(files))[0]))
            except Exception as error:  # of the source's code; it matters to `lightning test` alone
                rank_zero_info(f"the test images were not checked: {error}")
        self._report_broken(
            [f"  {files.root / name}: {reason}" for files, read in found for name, reason in read.broken.items()]
        )

    def _feed_of(self, count: int) -> tuple[Literal["resident", "streamed"], str]:
        """How ``count`` images are fed, and why."""
        if self.wanted_feed != "auto":
            return self.wanted_feed, "as asked"
        if reason := self._only_streamed():
            return "streamed", reason
        gigabytes, limit = count * self.geometry.channels * self.geometry.evaluation**2 / 1e9, self.resident_limit_gb
        if gigabytes > limit:
            return "streamed", f"decoded, {gigabytes:.2f} GB would be over resident_limit_gb = {limit:g}"
        return "resident", ""

    def _read(self, files: Files, feed: str) -> tuple[Files, DecodedFiles]:
        return files, decode_or_load(files, self.geometry, self.cache_dir, keep=feed == "resident")

    def _report_broken(self, lines: list[str]) -> None:
        if not lines:
            return
        more = [f"  and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
        files, listing = counted(len(lines), "image file"), "\n".join(lines[:SHOWN] + more)
        if self.broken == "skip":
            rank_zero_info(f"left out because they can't be read: {files}\n{listing}")
            return
        advice = "Remove them, or leave them out with --data.broken skip"
        raise RunError(f"data: {files} can't be read\n{listing}\n{advice}")

    def _open(self, part: Part) -> tuple[Images, Tensor]:
        files, decoded = self._decoded[part]
        readable = torch.tensor([name not in decoded.broken for name in files.names])
        if decoded.store is None:
            return files, readable
        return ImageTensors(decoded.store, files.labels, names=files.names), readable

    def feed_note(self) -> str:
        """How the images are fed, in a line for the user; after ``setup``."""
        if self.feed == "streamed":
            return f"streamed feed, {counted(self.workers(), 'worker')}: {self.feed_reason}"
        stores = [decoded.store for _, decoded in self._decoded.values() if decoded.store is not None]
        count, gigabytes = counted(sum(map(len, stores)), "file"), sum(store.numel() for store in stores) / 1e9
        size, limit = "×".join(map(str, self.input_size)), self.resident_limit_gb
        return f"resident feed: {count} decoded once to {size}, {gigabytes:.2f} GB of at most {limit:g}"
