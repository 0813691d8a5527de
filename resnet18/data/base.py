"""What every data source shares: the validation split, its fingerprint, and the resident loaders.

A source is a subclass with four class attributes and two methods; :mod:`resnet18.data.digits` is a whole one. The
validation images are cut from the training images; the test images are loaded for ``test`` and ``predict`` only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from resnet18.data.resident import EvaluationLoader, Pixels, Position, TrainLoader
from resnet18.data.splits import fingerprint, stratified_split
from resnet18.errors import RunError
from resnet18.position import batches_done

Part = Literal["train", "test"]


class _Place(NamedTuple):
    device: torch.device | str = "cpu"
    rank: int = 0
    world_size: int = 1


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images, held whole as uint8 on the training device.

    Args:
        batch_size: Training images a step, on each rank.
        eval_batch_size: Images a step where nothing is trained.
        val_share: Share of every class's training images that validates instead.
        split_seed: Chooses which. Not the seed of the run: runs with other seeds keep the same split.
        translate: Largest random shift of a training image in pixels.
        flip: Mirror training images left and right, half of the time.
        seed: Seed of the order and the augmentation; the command line takes it from ``seed_everything``.

    Raises:
        ValueError: For a value out of range.
    """

    class_names: ClassVar[Sequence[str]]
    """The classes' names, in the order of their labels."""
    mean: Sequence[float]
    """Mean of each channel's pixels over the training images, pixels counted from 0 to 1."""
    std: Sequence[float]
    """Standard deviation likewise."""
    input_size: tuple[int, int, int]
    """Channels, height and width."""

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_share: float = 0.1,
        split_seed: int = 0,
        translate: int = 0,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"batch_size and eval_batch_size must be at least 1, not {batch_size}, {eval_batch_size}")
        if not 0 < val_share < 1:
            raise ValueError(f"val_share must lie between 0 and 1, not {val_share}")
        if not 0 <= translate < min(self.input_size[1:]):
            raise ValueError(f"translate must be 0 or more and below the image's size, not {translate}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_share, self.split_seed, self.seed = val_share, split_seed, seed
        self.translate, self.flip = translate, flip
        self.train: Pixels | None = None
        self.val: Pixels | None = None
        self.test: Pixels | None = None
        self._split_hash: str | None = None

    @abstractmethod
    def load(self, part: Part) -> Pixels:
        """The images and labels of one part: uint8 N×H×W×C, and int64 N.

        Raises:
            RunError: Where the files are missing or broken.
        """

    def image_ids(self) -> Sequence[str]:
        """A name for each test image, in order, for the tables that ``predict`` writes."""
        assert self.test is not None
        return [str(number) for number in range(len(self.test.labels))]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def split_hash(self) -> str:
        """Fingerprint of which images train and which validate."""
        if self._split_hash is None:
            self._cut(self.load("train").labels)
        assert self._split_hash is not None
        return self._split_hash

    def _cut(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        train, val = stratified_split(labels, self.val_share, self.split_seed)
        self._split_hash = fingerprint(labels=labels, train=train, val=val)
        return train, val

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and self.val is None:
            pixels = self.load("train")
            train, val = self._cut(pixels.labels)
            if len(train) < self.batch_size:
                raise ValueError(f"batch_size is {self.batch_size}, but there are {len(train)} images to train on")
            self.train = Pixels(pixels.images[train], pixels.labels[train])
            self.val = Pixels(pixels.images[val], pixels.labels[val])
        elif stage in ("test", "predict") and self.test is None:
            self.test = self.load("test")

    def train_dataloader(self) -> TrainLoader:
        assert self.train is not None, "call setup('fit') first"
        device, rank, world_size = self._place()
        return TrainLoader(
            self.train,
            self.batch_size,
            self.seed,
            translate=self.translate,
            flip=self.flip,
            device=device,
            rank=rank,
            world_size=world_size,
            position=self._position if self.trainer else None,
        )

    def val_dataloader(self) -> EvaluationLoader:
        assert self.val is not None, "call setup('validate') first"
        return self._evaluation_loader(self.val)

    def test_dataloader(self) -> EvaluationLoader:
        assert self.test is not None, "call setup('test') first"
        return self._evaluation_loader(self.test)

    predict_dataloader = test_dataloader

    def _evaluation_loader(self, pixels: Pixels) -> EvaluationLoader:
        device, rank, world_size = self._place()
        return EvaluationLoader(pixels, self.eval_batch_size, device=device, rank=rank, world_size=world_size)

    def _place(self) -> _Place:
        if self.trainer is None:
            return _Place()
        return _Place(self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size)

    def _position(self) -> Position:
        # A pass begins where the Trainer's own count of batches says.
        assert self.trainer is not None
        return Position(*divmod(batches_done(self.trainer), int(self.trainer.num_training_batches)))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, to be compared with the data it is later used on."""
        return {"split_hash": self.split_hash, "class_names": list(self.class_names)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares the data with those that a checkpoint was trained on.

        Raises:
            RunError: Where the split or the classes differ: its scores would mean something else.
        """
        for name, now in self.state_dict().items():
            if name in state_dict and state_dict[name] != now:
                raise RunError(f"data: the checkpoint's {name} is {state_dict[name]}, that of these data {now}")
