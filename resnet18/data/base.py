"""What every data source shares: the validation split, its fingerprint, and the loaders.

A source is a subclass with four class attributes and one method; :mod:`resnet18.data.digits` is a whole one, and
:class:`~resnet18.data.image_files.ImageFiles` the base of those whose images are files. The validation images are cut
from the training images; the test images are shown to ``test`` and ``predict`` only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.files import Files
from resnet18.data.feeds.order import Order, Position, Shard
from resnet18.data.feeds.resident import EvaluationLoader, ImageTensors, TrainLoader
from resnet18.data.splits import fingerprint, stratified_split
from resnet18.engine.loops import limited_batches, position, refuse_other_batches
from resnet18.errors import RunError, UsageError, counted

Part = Literal["train", "val", "test"]
# What every source has to say of its images.
EXAMPLES = {"class_names": '("cat", "dog")', "mean": "[0.5]", "std": "[0.25]", "input_size": "(1, 28, 28)"}
ONE_CLASS = "; an image has one class here, its number: neither several labels nor a value to predict"


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images, held whole as uint8 on the training device.

    Args:
        batch_size: Training images a step, on each rank.
        eval_batch_size: Images a step where nothing is trained.
        val_share: Share of every class's training images that validates instead.
        split_seed: Chooses which. Not the seed of the run: runs with other seeds keep the same split.
        translate: Largest random shift of a training image in pixels.
        flip: Mirror training images left and right, half of the time.
        cutout: Side of a square painted over in every training image, in pixels.
        seed: Seed of the order and the augmentation; the command line takes it from ``seed_everything``.

    Raises:
        ValueError: For a value out of range.
        UsageError: For a source that lacks one of the four attributes below, when it is first asked for.
        RunError: In ``setup``, where what ``load`` gave is not as it should be.
    """

    class_names: Sequence[str]
    """The classes' names, in the order of their labels."""
    mean: Sequence[float]
    """Mean of each channel's pixels over the training images, pixels counted from 0 to 1."""
    std: Sequence[float]
    """Standard deviation likewise."""
    input_size: tuple[int, int, int]
    """Channels, height and width of what the network is shown when it is evaluated."""
    has_val = False
    """Whether ``load("val")`` gives validation images, so that none are cut from the training images."""
    has_test = True
    """Whether ``load("test")`` gives test images."""

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_share: float = 0.1,
        split_seed: int = 0,
        translate: int = 0,
        flip: bool = False,
        cutout: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if eval_batch_size < 1:
            raise ValueError(f"eval_batch_size must be at least 1, not {eval_batch_size}")
        if not 0 < val_share < 1:
            raise ValueError(f"val_share must lie between 0 and 1, not {val_share}")
        if not 0 <= translate < min(self.input_size[1:]):
            raise ValueError(f"translate must be 0 or more and below the image's size, not {translate}")
        if cutout < 0:
            raise ValueError(f"cutout must be 0 or more, not {cutout}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_share, self.split_seed, self.seed = val_share, split_seed, seed
        self.translate, self.flip, self.cutout = translate, flip, cutout
        self.train: ImageTensors | Files | None = None
        self.val: ImageTensors | Files | None = None
        self.test: ImageTensors | Files | None = None
        self.feed: Literal["resident", "streamed"] = "resident"
        self._moved: tuple[Tensor, Tensor] | None = None
        self._split_hash: str | None = None
        self._saved_epoch: dict[str, int] = {}  # of the checkpoint that is gone on from

    if not TYPE_CHECKING:  # or every attribute would be there for the type checker

        def __getattr__(self, name: str) -> Any:
            # Asked here and not at the end of __init__: a subclass may set them after that, or compute them.
            if name in EXAMPLES and not hasattr(type(self), name):
                source = f"{type(self).__module__}.{type(self).__qualname__}"
                raise UsageError(f"data: {source} has no {name}; a source has, for example: {name} = {EXAMPLES[name]}")
            return self.__getattribute__(name)  # raises what it would without this method

    @abstractmethod
    def load(self, part: Part) -> ImageTensors | Files:
        """The images and labels of one part: uint8 N×H×W×C, and int64 N. For ``"val"`` only if ``has_val``.

        Raises:
            RunError: Where the files are missing or broken.
        """

    @property
    def augmentation(self) -> Augmentation:
        """What is done to the training images."""
        return Augmentation(translate=self.translate, flip=self.flip, cutout=self.cutout, fill=self.mean_pixel)

    @property
    def mean_pixel(self) -> list[int]:
        """The colour that is zero for the network: 0 to 255 for each channel."""
        return [round(255 * value) for value in self.mean]

    def feed_note(self) -> str:
        """How the images are fed, in a line for whoever started the command; after ``setup``."""
        held = self.train if self.train is not None else self.test
        assert isinstance(held, ImageTensors)
        return f"resident feed, {held.store.numel() / 1e6:,.1f} MB"

    def image_ids(self) -> Sequence[str]:
        """A name for each test image, in order, for the tables that ``predict`` writes."""
        assert self.test is not None
        return self.test.names or [str(number) for number in range(len(self.test))]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def split_hash(self) -> str:
        """Fingerprint of which images train and which validate."""
        if self._split_hash is None:
            self._cut(self.load("train"), self.load("val") if self.has_val else None)
        assert self._split_hash is not None
        return self._split_hash

    def _cut(self, whole: ImageTensors | Files, given: ImageTensors | Files | None) -> tuple[Tensor, Tensor]:
        """Which of ``whole`` train, and which of it, or of ``given``, validate."""
        identity = whole.identity()
        if given is None:
            try:
                train, val = stratified_split(whole.labels, self.val_share, self.split_seed, self.class_names)
            except ValueError as error:
                raise RunError(f"data: {error}") from None
        else:
            train, val = torch.arange(len(whole)), torch.arange(len(given))
            identity |= {f"val_{name}": part for name, part in given.identity().items()}
        self._split_hash = fingerprint(**identity, train=train, val=val)
        return train, val

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and self.val is None:
            whole, readable = self._open("train")
            given, val_readable = self._open("val") if self.has_val else (None, readable)
            train, val = self._cut(whole, given)
            train, val = train[readable[train]], val[val_readable[val]]
            counts = whole.labels[train].bincount(minlength=self.num_classes).tolist()
            if missing := [name for name, count in zip(self.class_names, counts, strict=True) if not count]:
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise RunError(f"data: there is no image to train on of the class {', '.join(missing[:5])}{more}")
            if len(train) < self.batch_size:
                raise ValueError(f"batch_size is {self.batch_size}, but there are {len(train)} images to train on")
            self.train, self.val = whole.take(train), (whole if given is None else given).take(val)
        elif stage in ("test", "predict") and self.test is None:
            whole, readable = self._open("test")
            self.test = whole.take(readable.nonzero().squeeze(1))

    def batches(self, world_size: int = 1) -> int:
        """How many batches of training images an epoch has on each of so many ranks; after ``setup("fit")``.

        Raises:
            ValueError: Where there is not one.
        """
        assert self.train is not None, "call setup('fit') first"
        try:
            return Order(len(self.train), self.batch_size, self.seed, world_size=world_size).batches
        except ValueError as error:
            raise ValueError(f"batch_size is too large: {error}") from None

    def _open(self, part: Part) -> tuple[ImageTensors | Files, Tensor]:
        """A part, checked, and which of its images can be used: bool, N."""
        name = f"data: {type(self).__name__}.load({part!r})"
        pixels = self.load(part)
        if not isinstance(pixels, ImageTensors):
            hint = "; for Files, subclass ImageFiles" if isinstance(pixels, Files) else ""
            raise RunError(f"{name} should give ImageTensors, not {type(pixels).__name__}{hint}")
        images, labels, (channels, height, width) = pixels.store, pixels.labels, self.input_size
        if images.dtype != torch.uint8 or images.shape[1:] != (height, width, channels):
            expected = f"uint8 images of N×{height}×{width}×{channels}, as input_size says"
            raise RunError(f"{name} should give {expected}, not {images.dtype} of {'×'.join(map(str, images.shape))}")
        self._check_labels(name, len(images if pixels.rows is None else pixels.rows), labels)
        return pixels, torch.ones(len(labels), dtype=torch.bool)

    def _check_labels(self, name: str, count: int, labels: Tensor) -> None:
        if labels.dtype != torch.int64 or labels.shape != (count,):
            other = "" if labels.ndim == 1 and not labels.is_floating_point() else ONE_CLASS
            found = f"{labels.dtype} of {list(labels.shape)}{other}"
            raise RunError(f"{name} should give {counted(count, 'label')} as int64, not {found}")
        if count == 0:
            raise RunError(f"{name} gave no images")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            wrong, last = low if low < 0 else high, self.num_classes - 1
            raise RunError(f"{name} gave the label {wrong}; {last + 1} class_names mean labels 0 to {last}")

    def train_dataloader(self) -> Iterable[Any]:
        assert self.train is not None, "call setup('fit') first"
        return self._train_loader(self.train)

    def _train_loader(self, part: ImageTensors | Files) -> Iterable[Any]:
        assert isinstance(part, ImageTensors)
        device, rank, world_size = self._shard()
        return TrainLoader(
            self._on(device, part),
            self.batch_size,
            self.seed,
            self.augmentation,
            device=device,
            rank=rank,
            world_size=world_size,
            position=self._position if self.trainer else None,
        )

    def val_dataloader(self) -> Iterable[Any]:
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> Iterable[Any]:
        return self.evaluation_dataloader("test")

    predict_dataloader = test_dataloader

    def evaluation_dataloader(self, part: Part, at_most: int | None = None) -> Iterable[Any]:
        """A part's images as they are, in order, each once over all ranks: batches of (images, labels, positions).

        Args:
            part: One that ``setup`` has loaded.
            at_most: Only so many of them, evenly spaced.
        """
        images = {"train": self.train, "val": self.val, "test": self.test}[part]
        assert images is not None, f"call setup({'test' if part == 'test' else 'fit'!r}) first"
        if at_most is not None and at_most < len(images):
            images = images.take(torch.linspace(0, len(images) - 1, at_most).long())
        ranks = self._shard().world_size
        if len(images) < ranks:  # the others would wait for the one without
            raise RunError(f"data: {counted(len(images), 'image')} to score can't be shared out over {ranks} ranks")
        return self._evaluation_loader(images)

    def _evaluation_loader(self, part: ImageTensors | Files) -> Iterable[Any]:
        assert isinstance(part, ImageTensors)
        device, rank, world_size = self._shard()
        pixels = self._on(device, part)
        return EvaluationLoader(pixels, self.eval_batch_size, device=device, rank=rank, world_size=world_size)

    def _on(self, device: torch.device, pixels: ImageTensors) -> ImageTensors:
        # Training and validation images are parts of one tensor, which is to be on the device once.
        if self._moved is None or self._moved[0] is not pixels.store:
            self._moved = pixels.store, pixels.store.to(device)
        return ImageTensors(self._moved[1], pixels.labels, pixels.rows, pixels.names)

    def _shard(self) -> Shard:
        if self.trainer is None:
            return Shard()
        return Shard(self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size)

    def _position(self) -> Position:
        # A pass begins where the Trainer's own counters say.
        assert self.trainer is not None
        epoch, batch = position(self.trainer)
        self.check_resumed_epoch(self.trainer, batch)
        # Every epoch has other images; to be overfitted these have to stay.
        return Position(0 if self.trainer.overfit_batches else epoch, batch)  # type: ignore[attr-defined]

    def check_resumed_epoch(self, trainer: Trainer, done: int) -> None:
        """Raises RunError where an epoch of which so many batches are done was begun in other batches than now."""
        refuse_other_batches(done, self._saved_epoch, self._epoch(trainer))

    def images_of(self, batches: range, rank: int) -> list[str | int]:
        """What a rank is shown in some batches of the current epoch: the files' names, or numbers in the source."""
        assert self.trainer is not None
        assert self.train is not None
        epoch = 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]
        order = Order(len(self.train), self.batch_size, self.seed, rank, self.trainer.world_size).epoch(epoch)
        places = order[batches.start * self.batch_size : batches.stop * self.batch_size].tolist()
        if self.train.names is not None:
            return [self.train.names[place] for place in places]
        return places if self.train.rows is None else self.train.rows[places].tolist()

    def _epoch(self, trainer: Trainer) -> dict[str, int]:
        """An epoch's batches, and the images in one of them over all ranks."""
        batches = limited_batches(trainer, self.batches(trainer.world_size))
        return {"batches": batches, "images": self.batch_size * trainer.world_size}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, to be compared with the data it is later used on."""
        state: dict[str, Any] = {"split_hash": self.split_hash, "class_names": list(self.class_names)}
        if self.trainer is not None and self.train is not None:
            state["epoch"] = self._epoch(self.trainer)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares the data with those that a checkpoint was trained on.

        Raises:
            RunError: Where the split or the classes differ: its scores would mean something else.
        """
        self._saved_epoch = state_dict.get("epoch", {})
        now = {"split_hash": self.split_hash, "class_names": list(self.class_names)}
        if all(state_dict.get(name, value) == value for name, value in now.items()):
            return
        pairs = enumerate(zip_longest(state_dict.get("class_names", ()), now["class_names"], fillvalue="missing"))
        other = [f"; class {number} is {then} there, {here} here" for number, (then, here) in pairs if then != here]
        then, here = state_dict.get("split_hash"), now["split_hash"]
        message = f"data: the checkpoint's split_hash is {then}, that of these data {here}"
        raise RunError(message + "".join(other[:1]))
