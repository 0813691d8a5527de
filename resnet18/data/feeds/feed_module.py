"""How a data module's images reach the Trainer: on its device, split over the ranks, from any point of a run."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal
from weakref import WeakSet

import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.files import Files, Geometry
from resnet18.data.feeds.order import Order, Position, Shard
from resnet18.data.feeds.resident import EvaluationLoader, ImageTensors, TrainLoader
from resnet18.data.feeds.streamed import StreamedEvaluationLoader, StreamedLoader, StreamedTrainLoader
from resnet18.engine.loops import limited_batches, position, refuse_other_batches
from resnet18.errors import RunError, counted

Images = ImageTensors | Files
MOST_WORKERS = 16


class FeedModule(LightningDataModule, ABC):
    """The loaders of :class:`resnet18.data.base.ImageDataModule`, which sets ``train``, ``val`` and ``test``."""

    feed: Literal["resident", "streamed"] = "resident"
    geometry: Geometry  # of the streamed feed
    num_workers: int | None = None

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.train: Images | None = None
        self.val: Images | None = None
        self.test: Images | None = None
        self.saved_epoch: dict[str, int] = {}  # epoch_size of the checkpoint that is resumed
        self._moved: tuple[Tensor, Tensor] | None = None
        self._streams: WeakSet[StreamedLoader] = WeakSet()

    @property
    @abstractmethod
    def augmentation(self) -> Augmentation:
        """The augmentation of the training images."""

    def feed_note(self) -> str:
        """How the images are fed, in a line for the user; after ``setup``."""
        held = self.train if self.train is not None else self.test
        assert isinstance(held, ImageTensors)
        return f"resident feed, {held.store.numel() / 1e6:,.1f} MB"

    def image_ids(self, part: Literal["train", "val", "test"] = "test") -> Sequence[str]:
        """A name for each image of a part, in order: its file's, or its number in the source."""
        images = {"train": self.train, "val": self.val, "test": self.test}[part]
        assert images is not None
        rows = getattr(images, "rows", None)
        return images.names or [str(number) for number in (range(len(images)) if rows is None else rows.tolist())]

    def batches(self, world_size: int = 1) -> int:
        """Batches of training images in an epoch on each rank; ValueError where there is none."""
        assert self.train is not None, "call setup('fit') first"
        return Order(len(self.train), self.batch_size, self.seed, Shard(world_size=world_size)).batches

    def train_dataloader(self) -> Iterable[Any]:
        assert self.train is not None, "call setup('fit') first"
        shard, position = self._shard(), self._position if self.trainer else None
        if isinstance(self.train, ImageTensors):
            pixels = self._resident(self.train)
            return TrainLoader(pixels, self.batch_size, self.seed, self.augmentation, shard=shard, position=position)
        loader = StreamedTrainLoader(
            self.train,
            self.batch_size,
            self.seed,
            self.geometry,
            self.augmentation,
            num_workers=self.workers(),
            shard=shard,
            epochs=self.trainer.max_epochs or 1 if self.trainer else 1,  # -1, endless: images never grow
            position=position,
        )
        self._streams.add(loader)
        return loader

    def val_dataloader(self) -> Iterable[Any]:
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> Iterable[Any]:
        return self.evaluation_dataloader("test")

    predict_dataloader = test_dataloader

    def evaluation_dataloader(self, part: Literal["train", "val", "test"], at_most: int | None = None) -> Iterable[Any]:
        """A part's images, in order, each once over all ranks, or ``at_most`` of them: (images, labels, positions)."""
        images = {"train": self.train, "val": self.val, "test": self.test}[part]
        assert images is not None, f"call setup({'test' if part == 'test' else 'fit'!r}) first"
        if at_most is not None and at_most < len(images):
            images = images.take(torch.linspace(0, len(images) - 1, at_most).long())
        shard = self._shard()
        if len(images) < shard.world_size:  # the others would wait for the one without
            count = counted(len(images), "image")
            raise RunError(f"data: {count} to score can't be shared out over {shard.world_size} ranks")
        if isinstance(images, ImageTensors):
            return EvaluationLoader(self._resident(images), self.eval_batch_size, shard=shard)
        loader = self.stream(images, shard)
        self._streams.add(loader)
        return loader

    def stream(self, images: Files, shard: Shard) -> StreamedLoader:
        """The streamed feed's loader for images that are scored or predicted."""
        return StreamedEvaluationLoader(
            images, self.eval_batch_size, self.geometry, num_workers=self.workers(), shard=shard
        )

    def workers(self) -> int:
        """How many processes decode for the streamed feed."""
        if self.num_workers is not None:
            return self.num_workers
        return min(suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1), MOST_WORKERS)

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        for loader in list(self._streams):
            loader.close()

    def _resident(self, part: ImageTensors) -> ImageTensors:
        # Training and validation images are parts of one tensor, which is moved to the device once.
        if self._moved is None or self._moved[0] is not part.store:
            self._moved = part.store, part.store.to(self._shard().device)
        return ImageTensors(self._moved[1], part.labels, part.rows, part.names)

    def _shard(self) -> Shard:
        if self.trainer is None:
            return Shard()
        return Shard(self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size)

    def _position(self) -> Position:
        """Where a pass begins, by the Trainer's own counters."""
        assert self.trainer is not None
        epoch, batch = position(self.trainer)
        self.check_resumed_epoch(self.trainer, batch)
        # Epochs differ in their images; to overfit some batches the first epoch's stay.
        return Position(0 if self.trainer.overfit_batches else epoch, batch)  # type: ignore[attr-defined]

    def images_of(self, batches: range, rank: int) -> list[str | int]:
        """The images of some batches of the current epoch on a rank: the files' names, or numbers in the source."""
        assert self.trainer is not None
        assert self.train is not None
        epoch = 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]
        shard = Shard(rank=rank, world_size=self.trainer.world_size)
        order = Order(len(self.train), self.batch_size, self.seed, shard).epoch(epoch)
        numbers = order[batches.start * self.batch_size : batches.stop * self.batch_size].tolist()
        if self.train.names is not None:
            return [self.train.names[number] for number in numbers]
        return numbers if self.train.rows is None else self.train.rows[numbers].tolist()

    def check_resumed_epoch(self, trainer: Trainer, done: int) -> None:
        """Raises RunError if the epoch's ``done`` batches had another size or number than now."""
        refuse_other_batches(done, self.saved_epoch, self.epoch_size(trainer))

    def epoch_size(self, trainer: Trainer) -> dict[str, int]:
        """Batches of an epoch, and images of a batch over all ranks."""
        batches = limited_batches(trainer, self.batches(trainer.world_size))
        return {"batches": batches, "images": self.batch_size * trainer.world_size}
