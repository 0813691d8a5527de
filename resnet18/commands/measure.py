"""How a training loop is measured, and the bare loop that ``Trainer.fit`` is compared with."""

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from resnet18.engine.stopping import Interrupted

WARMUP = 2  # steps before the timed block
DRAIN_S = 2.0  # longest wait for the batches that workers had ready when the loop began
PROBES = 5  # single steps whose host time is taken


class Clock:
    """Times a loop that calls :meth:`step` at the end of every step, until it is :attr:`done`."""

    # After a warm-up comes a block of steps, with a wait for the device at both ends and nowhere between. On an
    # accelerator, single steps follow that each begin on an idle device: they show how long Python needs to issue one.

    def __init__(self, device: torch.device, steps: int, seconds: float = 0.0, ahead: int = 0) -> None:
        self.device, self.steps, self.seconds = device, steps, seconds  # the block takes at least both
        self.ahead = ahead  # batches that workers may have ready at the beginning; the warm-up uses them up
        self.done = False
        self.first_s = 0.0  # seconds to the end of the first step, which compiles
        self.step_ms = 0.0  # milliseconds a step of the block took
        self.host_ms: list[float] = []  # milliseconds until a step was issued
        self.peak_bytes: int | None = None  # of memory that torch had allocated; on CUDA only
        self._count = 0
        self._began = time.perf_counter()
        self._block: tuple[int, float] | None = None  # the count and the time at its start
        self._probing = False

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def begin(self) -> None:
        """Called just before the loop."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._began = self._now()

    def step(self) -> None:
        """Called at the end of every step."""
        self._count += 1
        if self._count == 1:
            self.first_s = self._now() - self._began
        if self._probing:
            self.host_ms.append(1000 * (time.perf_counter() - self._began))
            self.done = len(self.host_ms) == PROBES
            self._began = self._now()
        elif self._block is None:
            drained = self._count >= self.ahead or time.perf_counter() - self._began - self.first_s > DRAIN_S
            if self._count >= WARMUP and drained:
                self._block = self._count, self._now()
        elif self._count - self._block[0] >= self.steps and time.perf_counter() - self._block[1] >= self.seconds:
            self._began = self._now()
            self.step_ms = 1000 * (self._began - self._block[1]) / (self._count - self._block[0])
            self._probing = self.device.type != "cpu"
            self.done = not self._probing
            if self.device.type == "cuda":
                self.peak_bytes = torch.cuda.max_memory_allocated(self.device)


class Probe(Callback):
    """Times the Trainer's own loop, or runs and times ``loop`` in its place."""

    def __init__(self, steps: int, loop: Callable[[Trainer, LightningModule, Clock], None] | None = None) -> None:
        self.steps, self.loop = steps, loop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock = Clock(trainer.strategy.root_device, self.steps, ahead=ready_ahead(trainer.train_dataloader))
        self.clock.begin()
        if self.loop is not None:
            self.loop(trainer, pl_module, self.clock)
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.step()
        trainer.should_stop = trainer.should_stop or self.clock.done


def to_device(batch: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    return [part.to(device, non_blocking=True) for part in batch]


def ready_ahead(loader: Any) -> int:
    """How many batches a loader's workers get ready before they are asked for."""
    batches = getattr(loader, "batches", loader)
    return batches.num_workers * (batches.prefetch_factor or 0) if isinstance(batches, DataLoader) else 0


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Lets SIGINT and SIGTERM raise Interrupted at once: there is nothing to save."""

    def stop(signum: int, frame: Any) -> None:
        raise Interrupted(signum, None)

    previous = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Interrupted as stopped:
        # A run that saves on a signal has saved into a directory that is gone by now.
        raise Interrupted(stopped.signum, None) from None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def pull(loader: Iterable[Any], device: torch.device, clock: Clock) -> None:
    """Moves a loader's batches to a device, and does nothing with them."""
    clock.begin()
    while not clock.done:
        for batch in loader:
            to_device(batch, device)
            clock.step()
            if clock.done:
                break


def bare(trainer: Trainer, pl_module: LightningModule, clock: Clock) -> None:
    """The training loop as written by hand, with the Trainer's model, optimizer, schedule and settings."""
    device, optimizer, precision = trainer.strategy.root_device, trainer.optimizers[0], trainer.precision_plugin
    batches, accumulate = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    schedules: dict[str, Any] = {settings.interval: settings.scheduler for settings in trainer.lr_scheduler_configs}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit: float | None = trainer.gradient_clip_val  # type: ignore[attr-defined]
    clip = clip_grad_value_ if trainer.gradient_clip_algorithm == "value" else clip_grad_norm_  # type: ignore[attr-defined]
    scaler = getattr(precision, "scaler", None) or torch.amp.GradScaler(device.type, enabled=False)
    training_step: Any = pl_module.training_step
    loader: Any = trainer.train_dataloader
    epochs: Any = trainer.fit_loop.epoch_progress.current
    while True:
        for number, batch in enumerate(itertools.islice(loader, batches), 1):
            with precision.forward_context():
                loss = training_step(to_device(batch, device), 0)
            scaler.scale(loss / accumulate).backward()
            if number % accumulate == 0 or number == batches:
                if limit:
                    scaler.unscale_(optimizer)
                    clip(parameters, limit)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if "step" in schedules:
                    schedules["step"].step()
            clock.step()
            if clock.done:
                return
        if "epoch" in schedules:
            schedules["epoch"].step()
        epochs.completed += 1  # the loader's next pass is that epoch
