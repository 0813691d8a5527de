"""The base of every data source: the validation split, its fingerprint, and the loaders.

A source is a subclass with four class attributes and one method; :mod:`resnet18.data.digits` is an example, and
:class:`~resnet18.data.image_files.ImageFiles` the base for image files. The validation images are cut from the training
images; the test images are used by ``test`` and ``predict`` only.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.feed_module import FeedModule, Images
from resnet18.data.feeds.files import Files
from resnet18.data.feeds.resident import ImageTensors
from resnet18.data.splits import fingerprint, stratified_split
from resnet18.engine.inputs import Interpolation
from resnet18.errors import RunError, UsageError, counted

Part = Literal["train", "val", "test"]
AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]

# The attributes of every source.
EXAMPLES = {"class_names": '("cat", "dog")', "mean": "[0.5]", "std": "[0.25]", "input_size": "(1, 28, 28)"}
OTHER_TASKS = "; an image has one class here, its number; for several or for a value override check_targets and strata"


class ImageDataModule(FeedModule):
    """Labelled images, held whole as uint8 on the training device.

    For another task than one class an image, override two methods: ``check_targets(targets, name)`` to accept, say, N×C
    numbers for several labels an image or N floats for a value to predict, and ``strata(targets)`` to group images that
    are spread evenly over training and validation. ``class_names`` then names the network's outputs.

    Args:
        batch_size: Training images a step, on each rank.
        eval_batch_size: Images a step in validation, test and prediction.
        val_share: Share of every class's training images that is kept for validation.
        split_seed: Seed of that choice. Not the seed of the run: runs with other seeds keep the same split.
        translate: Largest random shift of a training image in pixels.
        flip: Mirror training images left and right, half of the time.
        cutout: Side of a square painted over in every training image, in pixels.
        seed: Seed of the order and the augmentation; the command line takes it from ``seed_everything``.

    Raises:
        UsageError: For a source that lacks one of the four attributes below, at its first use.
        RunError: In ``setup``, if ``load`` gave wrong images or targets.
    """

    class_names: Sequence[str]  # in the order of their labels; the network has an output for each
    mean: Sequence[float]  # of each channel over the training images, with pixels from 0 to 1
    std: Sequence[float]
    input_size: tuple[int, int, int]  # channels, height and width of an evaluation image
    eval_share = 1.0  # of the shorter side of the photograph that one was cut from
    interpolation: Interpolation = "bilinear"  # by which that was resized
    has_val = False  # load("val") gives validation images, so that none are cut from the training images
    has_test = True  # load("test") gives test images
    kind: type[Images] = ImageTensors  # the type that load returns

    def __init__(
        self,
        batch_size: AtLeast1 = 128,
        eval_batch_size: AtLeast1 = 512,
        val_share: Fraction = 0.1,
        split_seed: int = 0,
        translate: AtLeast0 = 0,
        flip: bool = False,
        cutout: AtLeast0 = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        if translate >= min(self.input_size[1:]):  # a gather would take pixels of other images
            raise ValueError(f"translate must be below the image's size, not {translate}")
        self.val_share, self.split_seed = val_share, split_seed
        self.translate, self.flip, self.cutout = translate, flip, cutout
        self._split_hash = ""

    if not TYPE_CHECKING:  # the type checker would accept any attribute

        def __getattr__(self, name: str) -> Any:
            # Checked here and not at the end of __init__: a subclass may set them later, or compute them.
            if name in EXAMPLES and not hasattr(type(self), name):
                source = f"{type(self).__module__}.{type(self).__qualname__}"
                raise UsageError(f"data: {source} has no {name}; a source has, for example: {name} = {EXAMPLES[name]}")
            return self.__getattribute__(name)  # raises as usual

    @abstractmethod
    def load(self, part: Part) -> Images:
        """The images and targets of one part: uint8 N×H×W×C, and int64 N. For ``"val"`` only if ``has_val``.

        Raises:
            RunError: For missing or broken files.
        """

    def check_targets(self, targets: Tensor, name: str) -> None:
        """Raises RunError for targets that do not fit the task; by default all but int64 N below ``num_classes``.

        Args:
            targets: As many as there are images, and at least one.
            name: Their source, to begin a message with.
        """
        if targets.dtype != torch.int64 or targets.ndim != 1:
            hint = "" if targets.ndim == 1 and not targets.is_floating_point() else OTHER_TASKS
            expected = f"{counted(len(targets), 'label')} as int64"
            raise RunError(f"{name} should give {expected}, not {targets.dtype} of {list(targets.shape)}{hint}")
        low, high, last = int(targets.min()), int(targets.max()), self.num_classes - 1
        if low < 0 or high > last:
            wrong = low if low < 0 else high
            raise RunError(f"{name} gave the label {wrong}; {last + 1} class_names mean labels 0 to {last}")

    def strata(self, targets: Tensor) -> Tensor:
        """The number of each image's stratum, int64 N; by default its class. Zeros give a plain random split."""
        return targets

    @property
    def is_single_label(self) -> bool:
        """Whether a target is a class number: true unless ``check_targets`` is overridden."""
        return type(self).check_targets is ImageDataModule.check_targets

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of the training images."""
        return Augmentation(translate=self.translate, flip=self.flip, cutout=self.cutout, fill=self.mean_pixel)

    @property
    def mean_pixel(self) -> list[int]:
        """The colour that is zero for the network: 0 to 255 for each channel."""
        return [round(255 * value) for value in self.mean]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def split_hash(self) -> str:
        """Fingerprint of which images train and which validate."""
        if not self._split_hash:
            self._split(self._checked("train"), self._checked("val") if self.has_val else None)
        return self._split_hash

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and self.val is None:
            whole, readable = self._open("train")
            given, val_readable = self._open("val") if self.has_val else (None, readable)
            train, val = self._split(whole, given)
            train, val = train[readable[train]], val[val_readable[val]]
            if self.is_single_label:
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

    def _checked(self, part: Part) -> Any:
        """A part as loaded, or RunError for one that breaks the rules of ``load``."""
        images, name = self.load(part), f"data: {type(self).__name__}.load({part!r})"
        if not isinstance(images, self.kind):
            hint = "; for Files, subclass ImageFiles" if isinstance(images, Files) else ""
            raise RunError(f"{name} should give {self.kind.__name__}, not {type(images).__name__}{hint}")
        if isinstance(images, ImageTensors):
            store, (channels, height, width) = images.store, self.input_size
            if store.dtype != torch.uint8 or store.shape[1:] != (height, width, channels):
                expected = f"uint8 images of N×{height}×{width}×{channels}, as input_size says"
                raise RunError(f"{name} should give {expected}, not {store.dtype} of {'×'.join(map(str, store.shape))}")
        if len(images) == 0:
            raise RunError(f"{name} gave no images")
        if len(images.labels) != len(images):
            raise RunError(f"{name} should give {counted(len(images), 'label')}, not {len(images.labels):,}")
        self.check_targets(images.labels, name)
        return images

    def _open(self, part: Part) -> tuple[Any, Tensor]:
        """A part, checked, and which of its images can be used: bool N."""
        images = self._checked(part)
        return images, torch.ones(len(images), dtype=torch.bool)

    def _split(self, whole: Images, given: Images | None) -> tuple[Tensor, Tensor]:
        """Positions of the training images in ``whole``, and of the validation images in ``given`` or ``whole``."""
        identity = whole.identity()
        if given is None:
            labels, strata = whole.labels, self.strata(whole.labels)
            if strata.dtype != torch.int64 or strata.shape != (len(whole),):
                found = f"{strata.dtype} of {list(strata.shape)}"
                raise RunError(f"data: {type(self).__name__}.strata should give int64 of [{len(whole)}], not {found}")
            if self.is_single_label and len(single := (labels.bincount() == 1).nonzero()):
                name = self.class_names[int(single[0])]
                raise RunError(f"data: class {name} has one image only; a split needs at least two of every class")
            train, val = stratified_split(strata, self.val_share, self.split_seed)
        else:
            train, val = torch.arange(len(whole)), torch.arange(len(given))
            identity |= {f"val_{name}": part for name, part in given.identity().items()}
        self._split_hash = fingerprint(**identity, train=train, val=val)
        return train, val

    def state_dict(self) -> dict[str, Any]:
        """The identity of the data, for comparison when the checkpoint is loaded."""
        state: dict[str, Any] = {"split_hash": self.split_hash, "class_names": list(self.class_names)}
        if self.trainer is not None and self.train is not None:
            state["epoch"] = self.epoch_size(self.trainer)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises RunError if the split or the classes differ from the checkpoint's: scores would not compare."""
        self.saved_epoch = state_dict.get("epoch", {})
        split_hash = state_dict.get("split_hash", self.split_hash)
        names = zip_longest(state_dict.get("class_names", self.class_names), self.class_names, fillvalue="missing")
        other = [f"; class {n} is {then} there, {here} here" for n, (then, here) in enumerate(names) if then != here]
        if other or split_hash != self.split_hash:
            message = f"data: the checkpoint's split_hash is {split_hash}, that of these data {self.split_hash}"
            raise RunError(message + "".join(other[:1]))
