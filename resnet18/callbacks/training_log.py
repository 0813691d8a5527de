"""Logs at every log point: loss, learning rates, speed, memory, and the norms of gradients and weights.

``train/loss`` is the mean since the last log point; ``images_per_s`` and ``step_ms`` count all ranks and leave
validation out; ``grad_norm`` is the log point's own step's, before clipping; ``memory_gb`` is the most that was in use
so far, on the GPU or else of the process. It waits for the device at log points only. ``LightningModule.log`` and
Lightning's ThroughputMonitor take several times the host time; ``benchmarks/trainer_overhead.py`` measures it.
"""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from resnet18.engine.loops import at_log_point
from resnet18.engine.precision import gradient_scale
from resnet18.metrics import Mode

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TRAINING_METRICS: dict[str, Mode | None] = {"train/loss": "min", "lr": None, "images_per_s": None}
MORE = ("step_ms", "grad_norm", "weight_norm", "memory_gb")  # logged too, but not shown or watched
MEASURED = ("images_per_s", "step_ms", "memory_gb")  # of the machine: they differ between two runs that are equal


class TrainingLog(Callback):
    """Needs batches whose first part has an entry for each image, such as (images, labels)."""

    def __init__(self) -> None:
        self._loss: Tensor | float = 0.0  # the sum over the batches since the last log point, on the device
        self._batches = 0
        self._rates: dict[str, float | Tensor] = {}
        self._grad_norm: Tensor | None = None
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._images = self._timed = 0  # since then
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart_clock()

    on_train_start = on_train_epoch_start  # a run resumed in mid-epoch has no epoch start
    on_validation_end = on_train_epoch_start  # its time does not count

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._rates = learning_rates(trainer.optimizers[0])  # by the batch's end the next step's are set

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.loggers and at_log_point(trainer, trainer.global_step + 1):
            gradients = [one.grad for one in pl_module.parameters() if one.grad is not None]
            self._grad_norm = get_total_norm(gradients) / gradient_scale(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss = self._loss + outputs["loss"]
        self._batches += 1
        self._timed += 1
        self._images += len(batch[0])
        if not at_log_point(trainer, trainer.global_step):
            return
        # Lightning divides each loss by the batches that its gradient is accumulated over.
        loss = self._loss * trainer.accumulate_grad_batches / self._batches
        norms: dict[str, float] = {}
        if trainer.loggers:
            weights = [one.detach() for one in pl_module.parameters() if one.requires_grad]
            values = {"grad_norm": self._grad_norm, "weight_norm": get_total_norm(weights)}
            values = {name: value for name, value in values.items() if value is not None}
            together = torch.stack([one.float() for one in (loss, *values.values())])
            loss, *numbers = together.tolist()  # waits for the device
            norms = dict(zip(values, numbers, strict=True))
        seconds = time.perf_counter() - self._since
        rate = self._images * trainer.world_size / seconds
        step_ms = 1000 * seconds * trainer.accumulate_grad_batches / self._timed
        rates = {name: float(lr) for name, lr in self._rates.items()}
        metrics = {"train/loss": loss, **rates, "images_per_s": rate, "step_ms": step_ms}
        metrics |= {**norms, **memory(trainer.strategy.root_device)}
        trainer.callback_metrics.update({name: torch.as_tensor(metrics[name]) for name in TRAINING_METRICS})
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **metrics}, trainer.global_step - 1)  # steps from 0
        self._loss, self._batches, self._grad_norm = 0.0, 0, None
        self._restart_clock()

    def state_dict(self) -> dict[str, Any]:
        return {"loss": float(self._loss), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loss, self._batches = state_dict["loss"], state_dict["batches"]


def learning_rates(optimizer: Optimizer) -> dict[str, float | Tensor]:
    """The first group's as ``lr``, and as ``lr/NAME`` those of groups with names, such as a slower backbone's."""
    groups = optimizer.param_groups
    named = {f"lr/{group['name']}": group["lr"] for group in groups[1:] if "name" in group}
    return {"lr": groups[0]["lr"], **named}


def memory(device: torch.device) -> dict[str, float]:
    """The most memory in use so far, in 10⁹ bytes; nothing where the system does not say."""
    if device.type == "cuda":
        return {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    if resource is None:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
