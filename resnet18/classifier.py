"""The LightningModule: any backbone, trained and scored from raw pixels to logits.

Images come in as uint8 and are normalised inside, with the mean and standard deviation held in the state: a checkpoint
carries its own preprocessing, and a batch crosses to the device at a quarter of the bytes. Between two log points
(``trainer.log_every_n_steps``) nothing here waits for the device.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from resnet18.callbacks.ema import Averaging
from resnet18.callbacks.predictions import Prediction
from resnet18.callbacks.training_log import TRAINING_METRICS, TrainingLog
from resnet18.engine.compilation import compile_in_place
from resnet18.engine.inputs import Interpolation, check_pixels, check_size, checked_statistics, laid_out, memory_format
from resnet18.engine.loops import total_steps
from resnet18.engine.module import ResumableModule
from resnet18.engine.monitoring import check_watched
from resnet18.errors import DivergedError, counted
from resnet18.losses import NAMED, Mixing
from resnet18.metrics import MeanLoss, Mode, mode_of
from resnet18.optimization import (
    Interval,
    OptimizerCallable,
    ScheduleCallable,
    head_of,
    make_optimizer,
    make_schedule,
    schedule_settings,
)


class Classifier(ResumableModule):
    """Trains and scores a backbone on images with targets; by default one class an image.

    Subclass it for a model of your own (``--model mymodel.MyClassifier``). Another task decides on five things: the
    ``loss``, :meth:`make_metrics` and :meth:`decide` here, ``check_targets`` and ``strata`` of its data source.

    Args:
        backbone: N×C×H×W float → N×num_classes logits; any module.
        optimizer: Takes parameter groups, gives the optimizer. Weight decay is kept off norm layers and biases.
        schedule: Takes the optimizer, gives any torch scheduler, or one of :mod:`resnet18.schedules`. A ``total_steps``
            that is left out is the Trainer's number of optimizer steps.
        schedule_interval: How often the schedule steps; by default every optimizer step for :mod:`resnet18.schedules`,
            ``OneCycleLR`` and ``CyclicLR``, every epoch for torch's others, as each counts.
        label_smoothing: Of the training loss, where that is one of the two with a name.
        channels_last: Keep weights and images as N×H×W×C in memory: the same network, faster convolutions. Not done to
            very narrow networks, see :func:`~resnet18.engine.inputs.memory_format`.
        compile: Compile the backbone before training; see :func:`~resnet18.engine.compilation.compile_in_place`.
        mixup: Alpha of MixUp, 0 for none; ``train/loss`` is the loss of mixed images.
        cutmix: Alpha of CutMix, 0 for none.
        loss: Of the training: a name, or any module from N×num_classes logits and targets to a scalar. Validation and
            test report that module's loss, and plain cross-entropy for the two with a name.
        backbone_lr_scale: All but the backbone's last layer learn at this multiple of the optimizer's learning rate;
            the logged ``lr`` is the last layer's. A schedule scales both, but a floor such as ``eta_min`` is absolute.
        ema: Decay of a moving average of the weights, 0 for none, which is then what is scored and saved; see
            :mod:`resnet18.callbacks.ema`.
        metrics: More metrics by name, beside those of :meth:`make_metrics`: logged as ``val/NAME`` and ``test/NAME``.
        num_classes: Width of the logits. The command line takes this and what follows from the data.
        mean: Of each channel, pixels counted from 0 to 1.
        std: Standard deviation of each channel.
        class_names: In the order of the logits.
        input_size: Channels, height and width of the images it is evaluated on.
        eval_share, interpolation: How they are cut from a photograph, see :func:`~resnet18.data.feeds.decode.centre`.

    Raises:
        ValueError: For a count that does not fit another.
        TypeError: In ``forward`` and ``normalize``, for what is no uint8 tensor; ValueError for one of another shape.
        DivergedError: Where validation or test meets a loss that is not finite.
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable,
        schedule: ScheduleCallable | None = None,
        schedule_interval: Interval | None = None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0,
        channels_last: bool = True,
        compile: bool = False,
        mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
        cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
        loss: Literal["cross_entropy", "binary_cross_entropy"] | nn.Module = "cross_entropy",
        backbone_lr_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
        ema: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0,
        metrics: dict[str, Metric] | None = None,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        input_size: Sequence[int] | None = None,
        eval_share: float = 1.0,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__()
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"{counted(len(class_names), 'class name')} for {num_classes} classes")
        if isinstance(loss, str) and loss not in NAMED:
            raise ValueError(f"loss must be a module or one of {', '.join(NAMED)}, not {loss}")
        if label_smoothing and not isinstance(loss, str):
            name, named = type(loss).__name__, " and ".join(NAMED)
            rank_zero_info(f"label_smoothing {label_smoothing} is not used: it is for {named}, and the loss is {name}")
        mean, std = checked_statistics(mean, std)
        with warnings.catch_warnings():
            # That an attribute is an nn.Module: on_save_checkpoint leaves these out.
            warnings.filterwarnings("ignore", message="Attribute '.*' is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        self.memory_format = memory_format(backbone, channels_last)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.compile_backbone, self.backbone_lr_scale = compile, backbone_lr_scale
        self.plain_loss = isinstance(loss, str)  # then validation and test report cross-entropy without smoothing
        self.loss = NAMED[loss](label_smoothing=label_smoothing) if isinstance(loss, str) else loss
        self.averaging = Averaging(ema)
        self.mixing = Mixing(mixup, cutmix, num_classes)
        self.flip_tta = False  # average the logits of an image and its mirror image, wherever nothing is fitted
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names else [str(number) for number in range(num_classes)]
        self.input_size = tuple(input_size) if input_size else None
        self.eval_share, self.interpolation = eval_share, interpolation
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))  # C×1×1
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
        scores = MetricCollection({**self.make_metrics(), **(metrics or {})}, compute_groups=False)
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")

    def make_metrics(self) -> dict[str, Metric]:
        """What validation and test score the logits by: logged, printed and watched in each metric's own direction."""
        classes = self.num_classes
        metrics: dict[str, Metric] = {"top1": MulticlassAccuracy(classes, average="micro", validate_args=False)}
        if classes > 5:  # of five every image is among the top five
            metrics["top5"] = MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False)
        return metrics

    def decide(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Classes and their probabilities of float32 N×C logits: int64 N and float32 N; of several an image bool and
        float32 N×C."""
        probabilities, classes = logits.softmax(1).max(1)
        return classes, probabilities

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N×num_classes, of uint8 images, N×C×H×W; in evaluation mode without a Trainer of ``input_size``."""
        inputs = self.normalize(images)
        if not self.training and not self.in_trainer:
            check_size(images, self.input_size)
        return self.backbone(inputs)

    def normalize(self, images: Tensor) -> Tensor:
        """What the backbone sees of uint8 images: (pixels / 255 - mean) / std, in float32."""
        check_pixels(images, self.input_size, len(self.mean))
        images = laid_out(images, self.memory_format)
        return images * (1 / (255 * self.std)) - self.mean / self.std  # two passes over the batch instead of four

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch  # uint8 B×C×H×W; int64 B, or what else the data source gives
        inputs = self.normalize(images)
        if self.mixing:
            inputs, targets = self.mixing(inputs, targets)
            inputs = laid_out(inputs, self.memory_format)  # on CUDA they come out of mixing in another
        return self.loss(self.backbone(inputs).float(), targets)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self._score(batch, self.val_loss, self.val_scores)

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        return self._score(batch, self.test_loss, self.test_scores)

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Prediction:
        images, _, positions = batch
        return Prediction(positions, *self.decide(logits := self._evaluated(images)), logits)

    def _score(self, batch: tuple[Tensor, ...], loss: MeanLoss, scores: MetricCollection) -> Tensor:
        images, targets = batch[:2]
        logits = self._evaluated(images)
        mean = F.cross_entropy(logits, targets) if self.plain_loss else self.loss(logits, targets)
        loss.update(mean * len(targets), len(targets))
        scores.update(logits, targets)
        return logits  # for callbacks

    def _evaluated(self, images: Tensor) -> Tensor:
        logits = self(images).float()
        if self.flip_tta and not self.in_fit:
            logits = (logits + self(images.flip(-1)).float()) / 2
        return logits

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_loss, self.val_scores)
        check_watched(self.trainer, self.metric_modes)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_loss, self.test_scores)

    def _log_scores(self, stage: str, loss: MeanLoss, scores: MetricCollection) -> None:
        # NaN logits would score like a plausible accuracy; the loss tells.
        if not torch.isfinite(loss.compute()):
            value, epoch = loss.compute().item(), self.current_epoch + 1
            raise DivergedError(f"{stage}/loss is {value} in epoch {epoch}: the training diverged")
        # Metric objects, not their values: Lightning then resets them, and knows that they agree on every rank.
        self.log(f"{stage}/loss", loss)
        self.log_dict(scores)

    @property
    def metric_modes(self) -> dict[str, Mode | None]:
        """What is logged in training and validation, and whether more of it is better, less, or neither (None)."""
        modes = {name: mode_of(metric) for name, metric in self.val_scores.items()}
        return {"val/loss": mode_of(self.val_loss), **modes, **TRAINING_METRICS}

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), TrainingLog(), *([self.averaging] if self.averaging.decay else [])]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.in_fit and self.compile_backbone:
            compile_in_place(self.backbone)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        steps = total_steps(self.trainer) if self.schedule else 0
        schedule = self.make_schedule(optimizer, steps)
        if schedule is None:
            return optimizer
        settings = schedule_settings(schedule, self.schedule_interval, steps)
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def make_optimizer(self) -> Optimizer:
        """See :func:`resnet18.optimization.make_optimizer`."""
        head = head_of(self.backbone) if self.backbone_lr_scale != 1 else None
        return make_optimizer(self.optimizer, self, head, self.backbone_lr_scale)

    def make_schedule(self, optimizer: Optimizer, total_steps: float) -> LRScheduler | None:
        """See :func:`resnet18.optimization.make_schedule`; ``total_steps`` may be infinite here."""
        if self.schedule is None:
            return None
        return make_schedule(self.schedule, optimizer, total_steps)
