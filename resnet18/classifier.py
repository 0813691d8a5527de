"""The LightningModule: any backbone, trained to tell classes apart, from raw pixels to logits.

Images come in as uint8 and are normalised inside, with the mean and standard deviation held in the state: a checkpoint
carries its own preprocessing, and a batch crosses to the device at a quarter of the bytes.

Between two log points (``trainer.log_every_n_steps``) nothing here waits for the device; what is logged at one is up to
:class:`~resnet18.callbacks.training_log.TrainingLog`, which the module brings along. Validation and test sum on the
device too and log once, at their end.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from resnet18.callbacks.ema import Averaging
from resnet18.callbacks.predictions import Prediction
from resnet18.callbacks.training_log import TRAINING_METRICS, TrainingLog
from resnet18.engine.checkpointing import complete_weights
from resnet18.engine.compilation import compile_in_place
from resnet18.engine.inputs import check_pixels, check_size, checked_statistics, laid_out, memory_format
from resnet18.engine.loops import resume_between_epochs, total_steps
from resnet18.errors import RunError, counted
from resnet18.losses import Loss, Mixing, check_loss, training_loss
from resnet18.metrics import MeanLoss, Mode, check_watched, mode_of
from resnet18.optimization import (
    Interval,
    OptimizerCallable,
    ScheduleCallable,
    check_length,
    forget_length,
    head_of,
    make_optimizer,
    make_schedule,
    schedule_settings,
    set_rates,
)
from resnet18.storage.checkpoints import CONFIG_KEY, model_from_checkpoint, primitives


class Classifier(LightningModule):
    """Trains and scores a backbone on labelled images.

    Args:
        backbone: N×C×H×W float → N×num_classes logits; any module.
        optimizer: Takes parameter groups, gives the optimizer. Weight decay is kept off norm layers and biases.
        schedule: Takes the optimizer, gives any torch scheduler, or one of :mod:`resnet18.schedules`. A ``total_steps``
            that is left out is the Trainer's number of optimizer steps.
        schedule_interval: How often the schedule steps; see :func:`~resnet18.optimization.schedule_settings` for the
            default.
        label_smoothing: Of the training loss; the losses of validation and test are plain cross-entropy.
        channels_last: Keep weights and images as N×H×W×C in memory: the same network, faster convolutions. Not done to
            very narrow networks, see :func:`~resnet18.engine.inputs.memory_format`.
        compile: Compile the backbone before training; see :func:`~resnet18.engine.compilation.compile_in_place`.
        mixup: Alpha of MixUp, 0 for none; ``train/loss`` is the loss of mixed images. See :mod:`resnet18.losses`.
        cutmix: Likewise of CutMix.
        loss: Of the training; see :func:`~resnet18.losses.training_loss`. Validation and test report cross-entropy and
            predictions are softmax probabilities, whichever it is.
        backbone_lr_scale: All but the backbone's last layer learn at this multiple of the optimizer's learning rate;
            the logged ``lr`` is the last layer's. A schedule scales both, but a floor such as ``eta_min`` is absolute.
        ema: Decay of a moving average of the weights, 0 for none, which is then what is scored and saved; see
            :mod:`resnet18.callbacks.ema`.
        num_classes: Width of the logits. The command line takes this and what follows from the data.
        mean: Of each channel, pixels counted from 0 to 1.
        std: Likewise.
        class_names: In the order of the labels.
        input_size: Channels, height and width of the images it is evaluated on.

    Raises:
        ValueError: For a value out of range or a count that does not fit another.
        TypeError: In ``forward`` and ``normalize``, for what is no uint8 tensor; ValueError for one of another shape.
        RunError: Where validation or test meets a loss that is not finite.
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable,
        schedule: ScheduleCallable | None = None,
        schedule_interval: Interval | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = True,
        compile: bool = False,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        loss: Loss = "cross_entropy",
        backbone_lr_scale: float = 1.0,
        ema: float = 0.0,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        input_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_loss(loss, label_smoothing)
        if not 0 < backbone_lr_scale < math.inf:
            raise ValueError(f"backbone_lr_scale must be above 0 and finite, not {backbone_lr_scale}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"{counted(len(class_names), 'class name')} for {num_classes} classes")
        mean, std = checked_statistics(mean, std)
        with warnings.catch_warnings():
            # "Attribute 'backbone' is an instance of nn.Module": on_save_checkpoint leaves it out.
            warnings.filterwarnings("ignore", message="Attribute 'backbone'")
            self.save_hyperparameters(logger=False)
        self.memory_format = memory_format(backbone, channels_last)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.optimizer, self.schedule, self.schedule_interval = optimizer, schedule, schedule_interval
        self.label_smoothing, self.compile_backbone = label_smoothing, compile
        self.loss, self.backbone_lr_scale = loss, backbone_lr_scale
        self.averaging = Averaging(ema)
        self.mixing = Mixing(mixup, cutmix, num_classes)
        self.flip_tta = False
        """Let validation, test and prediction average the logits of an image and its mirror image; never in fitting."""
        self._fitting = self._in_trainer = False
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names else [str(number) for number in range(num_classes)]
        self.input_size = tuple(input_size) if input_size else None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.run_config: dict[str, Any] | None = None
        """The whole configuration of the run, plain values only; kept in every checkpoint."""
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
        # What is added here is logged, printed and can be monitored, in the direction that its class says.
        scores: dict[str, Metric | MetricCollection] = {
            f"top{k}": MulticlassAccuracy(num_classes, top_k=k, average="micro", validate_args=False)
            for k in ((1, 5) if num_classes > 5 else (1,))  # of five classes every image is among the top five
        }
        collection = MetricCollection(scores, compute_groups=False)
        self.val_scores, self.test_scores = collection.clone(prefix="val/"), collection.clone(prefix="test/")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N×num_classes, of uint8 images, N×C×H×W; in evaluation mode without a Trainer of ``input_size``."""
        inputs = self.normalize(images)
        if not self.training and not self._in_trainer:
            check_size(images, self.input_size)
        return self.backbone(inputs)

    def normalize(self, images: Tensor) -> Tensor:
        """What the backbone sees of uint8 images: (pixels / 255 - mean) / std, in float32."""
        check_pixels(images, self.input_size, len(self.mean))
        images = laid_out(images, self.memory_format)
        # In two passes over the batch instead of four.
        return images * (1 / (255 * self.std)) - self.mean / self.std

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of the running hook here some 45 times a step; nn.Module would look each time whether
        # it is a parameter, a module or a buffer.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def metric_modes(self) -> dict[str, Mode | None]:
        """What is logged in training and validation, and whether more of it is better, less, or neither (None)."""
        modes = {name: mode_of(metric) for name, metric in self.val_scores.items()}
        return {"val/loss": mode_of(self.val_loss), **modes, **TRAINING_METRICS}

    def configure_callbacks(self) -> list[Callback]:
        return [TrainingLog(), self.averaging] if self.averaging.decay else [TrainingLog()]

    def setup(self, stage: str) -> None:
        self._fitting, self._in_trainer = stage == "fit", True
        if not self._fitting:
            return
        if self.compile_backbone:
            compile_in_place(self.backbone)

    def teardown(self, stage: str) -> None:
        self._in_trainer = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if not self.mixing:
            return training_loss(self.loss, self(images), labels, self.label_smoothing)
        inputs, labels = self.mixing(self.normalize(images), labels)
        inputs = laid_out(inputs, self.memory_format)  # on CUDA they come out of mixing otherwise
        return training_loss(self.loss, self.backbone(inputs), labels, self.label_smoothing)

    def on_train_start(self) -> None:
        resume_between_epochs(self.trainer)
        for config in self.trainer.lr_scheduler_configs:
            set_rates(config.scheduler)

    def on_validation_epoch_start(self) -> None:
        # Every rank has gathered norm statistics of its own since the last forward pass of training. A checkpoint holds
        # rank 0's, so all ranks score with those.
        if self.trainer.world_size > 1:
            for buffer in self.backbone.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self._score(batch, self.val_loss, self.val_scores)

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self._score(batch, self.test_loss, self.test_scores)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_loss, self.val_scores)
        check_watched(self.trainer, self.metric_modes)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_loss, self.test_scores)

    def _score(self, batch: tuple[Tensor, ...], loss: MeanLoss, scores: MetricCollection) -> None:
        images, labels = batch[:2]
        logits = self._evaluated(images)
        loss.update(F.cross_entropy(logits, labels, reduction="sum"), len(labels))
        scores.update(logits, labels)

    def _evaluated(self, images: Tensor) -> Tensor:
        logits = self(images).float()
        if self.flip_tta and not self._fitting:
            logits = (logits + self(images.flip(-1)).float()) / 2
        return logits

    def _log_scores(self, stage: str, loss: MeanLoss, scores: MetricCollection) -> None:
        # Metric objects, not their values: Lightning then resets them, and knows that they agree on every rank.
        # NaN logits would score like a plausible accuracy; the loss tells.
        if not torch.isfinite(loss.compute()):
            value, epoch = loss.compute().item(), self.current_epoch + 1
            raise RunError(f"{stage}/loss is {value} in epoch {epoch}: the training diverged")
        self.log(f"{stage}/loss", loss)
        self.log_dict(scores)

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Prediction:
        images, _, positions = batch
        probabilities, classes = self._evaluated(images).softmax(1).max(1)
        return Prediction(positions, classes, probabilities)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        steps = total_steps(self.trainer) if self.schedule else 0
        schedule = self.make_schedule(optimizer, steps)
        if schedule is None:
            return optimizer
        settings = schedule_settings(schedule, self.schedule_interval)
        check_length(settings, steps)
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def make_optimizer(self) -> Optimizer:
        """See :func:`resnet18.optimization.make_optimizer`."""
        head = head_of(self.backbone) if self.backbone_lr_scale != 1 else None
        return make_optimizer(self.optimizer, self, head, self.backbone_lr_scale)

    def make_schedule(self, optimizer: Optimizer, total_steps: float) -> LRScheduler | None:
        """See :func:`resnet18.optimization.make_schedule`; ``total_steps`` may be infinite here."""
        if self.schedule is None:
            return None
        return make_schedule(self.schedule, optimizer, int(total_steps) if 0 < total_steps < math.inf else None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        hyper_parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = primitives(hyper_parameters)
        if self.run_config is not None:
            checkpoint[CONFIG_KEY] = self.run_config
        self.averaging.write(checkpoint)
        complete_weights(self.trainer, self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._fitting:
            self.averaging.read(checkpoint)
            for state in checkpoint.get("lr_schedulers", ()):
                forget_length(state)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", strict: bool | None = True, **kwargs: Any
    ) -> Self:
        """The model that a checkpoint describes, with its weights; no data are needed.

        Args:
            checkpoint_path: From a run, or from a Trainer used in Python.
            map_location: Where to, as ``torch.load`` takes it.
            strict: Whether weights that are missing or left over are an error.
            kwargs: Arguments that the checkpoint lacks (a backbone that was passed as an object) or should not decide.
                Lightning's ``weights_only`` is taken too: the file is read so in any case, for it could run code.

        Raises:
            RunError: Where the file is broken or names foreign code, and where weights and description do not fit.
        """
        kwargs.pop("weights_only", None)
        return model_from_checkpoint(cls, Path(checkpoint_path), kwargs, map_location, strict is not False)
