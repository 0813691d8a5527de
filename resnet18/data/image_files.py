"""The base of sources whose images are files: decoded once and resident where they fit, else streamed by workers.

A source of this kind is a subclass with ``class_names`` and a ``load`` that lists files and labels;
:mod:`resnet18.data.folder` is a whole one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from resnet18.data.base import ImageDataModule, Part
from resnet18.data.feeds.augment import Augmentation, Policy
from resnet18.data.feeds.cache import DecodedFiles, decode_or_load
from resnet18.data.feeds.files import Files, Geometry
from resnet18.data.feeds.resident import ImageTensors
from resnet18.data.feeds.streamed import StreamedEvaluationLoader, StreamedTrainLoader
from resnet18.errors import RunError, counted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's weights expect
GREY_MEAN, GREY_STD = (0.449,), (0.226,)  # the same of grey values
SHOWN = 40  # broken files named on the terminal; all of them are in the cache's list
MOST_WORKERS = 16


class ImageFiles(ImageDataModule):
    """Labelled image files, brought to one size.

    The *resident* feed decodes every file once, to the square that evaluation sees, and augments from there. The
    *streamed* feed decodes a file whenever it is needed, so that random crops come from the whole image in its full
    resolution, and augmentations that are done one by one can be had.

    Args:
        image_size: Side of a training image in pixels.
        eval_size: Side of any other image; by default the same.
        eval_share: How much of an image's shorter side the square in its middle takes, for evaluation.
        first_size: Side of a training image in the first epochs, to grow to ``image_size``; streamed feed only.
        growth: Between which shares of the run's epochs it grows.
        channels: 3 for colour, 1 for grey; files of the other kind are converted.
        crop: Least and greatest share of an image's area that a random crop takes.
        policy: ``trivial`` for TrivialAugment, ``rand`` for RandAugment; streamed feed only.
        magnitude: Of RandAugment, 0 to 30.
        erasing: Probability of erasing a random rectangle; streamed feed only.
        feed: ``auto`` is resident where everything asked for can be had so and the decoded images fit the limit.
        resident_limit_gb: That limit, in 10⁹ bytes of memory on the training device.
        num_workers: Processes that decode for the streamed feed; by default one fewer than there are CPUs, up to 16.
        broken: What to do about files that can't be read. All are listed before anything is trained, either way.
        cache_dir: Where what was decoded is kept; by default the user's, which is ``~/.cache/resnet18`` on Linux.
        mean: Of each channel, pixels counted from 0 to 1; by default ImageNet's.
        std: Likewise.
        kwargs: The rest is :class:`~resnet18.data.base.ImageDataModule`'s.

    Raises:
        ValueError: For a value out of range, and for two that contradict each other.
        RunError: In ``setup``, for files that can't be read.
    """

    def __init__(
        self,
        image_size: int = 128,
        eval_size: int | None = None,
        eval_share: float = 1.0,
        first_size: int | None = None,
        growth: tuple[float, float] = (0.75, 0.85),
        channels: Literal[1, 3] = 3,
        crop: tuple[float, float] | None = None,
        policy: Policy = "none",
        magnitude: int = 9,
        erasing: float = 0.0,
        feed: Literal["auto", "resident", "streamed"] = "auto",
        resident_limit_gb: float = 4.0,
        num_workers: int | None = None,
        broken: Literal["fail", "skip"] = "fail",
        cache_dir: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {image_size}")
        if eval_size is not None and eval_size < 1:
            raise ValueError(f"eval_size must be at least 1, not {eval_size}")
        if not 0 < eval_share <= 1:
            raise ValueError(f"eval_share must lie above 0 and up to 1, not {eval_share}")
        if first_size is not None and not 1 <= first_size <= image_size:
            raise ValueError(f"first_size must lie between 1 and image_size, {image_size}, not {first_size}")
        if not 0 <= growth[0] <= growth[1] <= 1:
            raise ValueError(f"growth must be two ascending shares of the run, not {list(growth)}")
        if not resident_limit_gb >= 0:
            raise ValueError(f"resident_limit_gb must be 0 or more, not {resident_limit_gb}")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, not {num_workers}")
        self.geometry = Geometry(image_size, eval_size or image_size, eval_share, channels, first_size, growth)
        self.input_size = (channels, self.geometry.evaluation, self.geometry.evaluation)
        self.mean = mean or (IMAGENET_MEAN if channels == 3 else GREY_MEAN)
        self.std = std or (IMAGENET_STD if channels == 3 else GREY_STD)
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must have {channels} values, one for each of the channels")
        super().__init__(**kwargs)
        self.crop, self.policy, self.magnitude, self.erasing = crop, policy, magnitude, erasing
        self.resident_limit_gb, self.num_workers, self.broken = resident_limit_gb, num_workers, broken
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else None
        self.wanted_feed = feed
        self._why = ""
        self._looked: dict[Part, tuple[Files, DecodedFiles]] = {}
        self._open_loaders: WeakSet[StreamedTrainLoader | StreamedEvaluationLoader] = WeakSet()
        only_streamed = self._only_streamed()
        if feed == "resident" and only_streamed:
            raise ValueError(f"feed is resident, but {only_streamed}")

    @property
    def augmentation(self) -> Augmentation:
        """What is done to the training images."""
        return Augmentation(
            crop=self.crop,
            translate=self.translate,
            flip=self.flip,
            policy=self.policy,
            magnitude=self.magnitude,
            erasing=self.erasing,
            cutout=self.cutout,
            fill=self.mean_pixel,
        )

    def _only_streamed(self) -> str:
        """Why the resident feed can't do what is asked for; empty if it can."""
        if self.augmentation.one_by_one:
            return "policy and erasing are done to one image at a time"
        if self.geometry.first is not None:
            return "first_size lets the images grow"
        if self.geometry.evaluation != self.geometry.train:
            return "eval_size is not image_size"
        return ""

    def prepare_data(self) -> None:
        """Looks through every file that the Trainer will use, on one process a machine: the others find its cache."""
        if self.trainer is None:
            return
        fn = self.trainer.state.fn
        self._look(["test"] if fn in (TrainerFn.TESTING, TrainerFn.PREDICTING) else self._parts(), fn == "fit")

    def setup(self, stage: str) -> None:
        if stage in ("test", "predict"):
            self._look(["test"])
        elif self.val is None:
            self._look(self._parts(), ahead=stage == "fit" and self.trainer is None)
        super().setup(stage)

    def _parts(self) -> list[Part]:
        return ["train", "val"] if self.has_val else ["train"]

    def _look(self, parts: list[Part], ahead: bool = False) -> None:
        """Decodes or checks the parts, and decides on their feed.

        Args:
            parts: Which.
            ahead: Look through the test images' files as well, so that ``lightning test`` does not fail on them after a
                long training. They go into its cache and nowhere else. ImageNet's 50,000 add a twenty-fifth to what
                looking through its training images costs, once.
        """
        if all(part in self._looked for part in parts):
            return
        listed = {part: self._listed(part) for part in parts}
        self.feed, self._why = self._feed_of(sum(map(len, listed.values())))
        self._looked |= {part: (files, self._decode(files, self.feed)) for part, files in listed.items()}
        looked = [self._looked[part] for part in parts]
        if ahead and self.has_test:
            try:
                files = self._listed("test")
                looked.append((files, self._decode(files, self._feed_of(len(files))[0])))
            except Exception as error:  # a source's own code: whatever it is matters to `lightning test` alone
                rank_zero_info(f"the test images were not looked at: {error}")
        self._report_broken(looked)

    def _feed_of(self, count: int) -> tuple[Literal["resident", "streamed"], str]:
        """How so many images are fed, and why they are streamed."""
        gigabytes = count * self.geometry.channels * self.geometry.evaluation**2 / 1e9
        only_streamed = self._only_streamed()
        if self.wanted_feed == "auto" and only_streamed:
            return "streamed", only_streamed
        if self.wanted_feed == "auto" and gigabytes > self.resident_limit_gb:
            limit = self.resident_limit_gb
            return "streamed", f"decoded, {gigabytes:.2f} GB would be over resident_limit_gb = {limit:g}"
        return ("streamed" if self.wanted_feed == "streamed" else "resident"), "as asked"

    def _decode(self, files: Files, feed: Literal["resident", "streamed"]) -> DecodedFiles:
        return decode_or_load(files, self.geometry, self.cache_dir, keep=feed == "resident")

    def _listed(self, part: Part) -> Files:
        files, name = self.load(part), f"data: {type(self).__name__}.load({part!r})"
        if not isinstance(files, Files):
            raise RunError(f"{name} should give Files, not {type(files).__name__}")
        self._check_labels(name, len(files), files.labels)
        return files

    def _report_broken(self, parts: list[tuple[Files, DecodedFiles]]) -> None:
        lines = [
            f"  {files.root / name}: {reason}" for files, looked in parts for name, reason in looked.broken.items()
        ]
        if not lines:
            return
        shown = lines if len(lines) <= SHOWN + 1 else [*lines[:SHOWN], f"  and {len(lines) - SHOWN:,} more"]
        if self.broken == "fail":
            listing = "\n".join([f"data: {counted(len(lines), 'image file')} can't be read", *shown])
            raise RunError(f"{listing}\nTake them away, or leave them out with --data.broken skip")
        rank_zero_info("\n".join([f"left out, for they can't be read: {counted(len(lines), 'image file')}", *shown]))

    def _open(self, part: Part) -> tuple[ImageTensors | Files, Tensor]:
        files, looked = self._looked[part]
        readable = torch.tensor([name not in looked.broken for name in files.names])
        if looked.store is None:
            return files, readable
        return ImageTensors(looked.store, files.labels, names=files.names), readable

    def feed_note(self) -> str:
        """How the images are fed, in a line for whoever started the command; after ``setup``."""
        if self.feed == "resident":
            stores = [looked.store for _, looked in self._looked.values() if looked.store is not None]
            count = counted(sum(map(len, stores)), "file")
            gigabytes = sum(store.numel() for store in stores) / 1e9
            size, limit = "×".join(map(str, self.input_size)), self.resident_limit_gb
            return f"resident feed: {count} decoded once to {size}, {gigabytes:.2f} GB of at most {limit:g}"
        return f"streamed feed, {counted(self._workers(), 'worker')}: {self._why}"

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        local = self.trainer.num_devices if self.trainer else 1
        return min(suggested_max_num_workers(local), MOST_WORKERS)

    def _train_loader(self, part: ImageTensors | Files) -> Iterable[Any]:
        if isinstance(part, ImageTensors):
            return super()._train_loader(part)
        loader = StreamedTrainLoader(
            part,
            self.batch_size,
            self.seed,
            self.geometry,
            self.augmentation,
            epochs=self.trainer.max_epochs or 1 if self.trainer else 1,  # -1, endless: images never grow
            position=self._position if self.trainer else None,
            **self._streaming(),
        )
        self._open_loaders.add(loader)
        return loader

    def _evaluation_loader(self, part: ImageTensors | Files) -> Iterable[Any]:
        if isinstance(part, ImageTensors):
            return super()._evaluation_loader(part)
        loader = StreamedEvaluationLoader(part, self.eval_batch_size, self.geometry, **self._streaming())
        self._open_loaders.add(loader)
        return loader

    def _streaming(self) -> dict[str, Any]:
        device, rank, world_size = self._shard()
        share = {"rank": rank, "world_size": world_size}
        return {"num_workers": self._workers(), "pin_memory": device.type == "cuda", **share}

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        for loader in list(self._open_loaders):
            loader.close()
