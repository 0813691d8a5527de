"""How a training loop is measured: in blocks of steps between two waits for the device, and by the memory it took."""

import contextlib
import ctypes
import gc
import itertools
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from resnet18.engine.stopping import Interrupted

WARMUP = 2  # steps before a block
DRAIN_S = 2.0  # longest wait for the batches that workers had ready when the loop began
PROBES = 5  # single steps whose host time is taken


class Clock:
    """Times a loop that calls :meth:`step` at the end of every step, until it is :attr:`done`.

    A warm-up, then a block of steps with a wait for the device at both ends and nowhere between; then, on an
    accelerator, single steps that each begin on an idle device, for the time Python needs to issue one.

    Args:
        device: What the loop computes on.
        steps: Steps of the block.
        seconds: What the block lasts at least.
        ahead: How many batches workers may have ready when the loop begins; the warm-up uses them up.
    """

    def __init__(self, device: torch.device, steps: int, seconds: float = 0.0, ahead: int = 0) -> None:
        self.device, self.steps, self.seconds, self.ahead = device, steps, seconds, ahead
        self.done = False
        self.first_s = 0.0
        """Seconds from the beginning to the end of the first step, which compiles."""
        self.step_ms = 0.0
        """Milliseconds a step of the block took."""
        self.host_ms: list[float] = []
        """Milliseconds until a step was issued."""
        self._count = 0
        self._began = time.perf_counter()
        self._block: tuple[int, float] | None = None
        self._probing = False

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def begin(self) -> None:
        """Called just before the loop."""
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


class PeakMemory:
    """The most memory in use since this was made.

    On CUDA what torch has allocated there; elsewhere the resident set of this process, its libraries included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # not glibc: then what was freed may stay and be counted
                ctypes.CDLL(None).malloc_trim(0)
            with contextlib.suppress(OSError):  # where that is forbidden the peak is that of the process's whole life
                Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is in use: proc(5)

    def read(self) -> int | None:
        """Bytes; None where the system doesn't tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        try:
            import resource
        except ImportError:  # Windows
            return None
        else:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the process's whole life, in bytes on macOS


def ready_ahead(loader: Any) -> int:
    """How many batches a loader's workers get ready before they are asked for."""
    batches = getattr(loader, "batches", loader)
    return batches.num_workers * (batches.prefetch_factor or 0) if isinstance(batches, DataLoader) else 0


class Nothing(LightningModule):
    """For loops that need a Trainer's device and loader, but not its model."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


class Probe(Callback):
    """Times the Trainer's own loop; or, given another one, runs and times that in its place.

    Args:
        steps: Of the timed block.
        loop: The other loop.
        seconds: What the block lasts at least.
        memory: Whether to watch the memory too, which takes longer than a short loop.
    """

    def __init__(
        self,
        steps: int,
        loop: Callable[[Trainer, LightningModule, Clock], None] | None = None,
        seconds: float = 0.0,
        memory: bool = True,
    ) -> None:
        self.steps, self.loop, self.seconds, self.memory = steps, loop, seconds, memory
        self.peak_bytes: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self.clock = Clock(device, self.steps, self.seconds, ahead=ready_ahead(trainer.train_dataloader))
        self._peak = PeakMemory(device) if self.memory else None
        self.clock.begin()
        if self.loop is not None:
            self.loop(trainer, pl_module, self.clock)
            self._finish(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.step()
        if self.clock.done:
            self._finish(trainer)

    def _finish(self, trainer: Trainer) -> None:
        self.peak_bytes = self._peak.read() if self._peak else None
        trainer.should_stop = True


HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
TRUE = ("32-true", "16-true", "bf16-true", "64-true")  # the module itself has been converted

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What a training loop does around the forward and the backward pass."""

    precision: str = "32-true"
    """As the Trainer names it."""
    accumulate: int = 1
    """Batches whose gradients are summed for one step of the optimizer."""
    clip: float | None = None
    """Largest norm of the gradient, or largest value in it."""
    clip_by: str = "norm"
    """Which of the two: ``norm`` or ``value``."""


def to_device(batch: Iterable[Tensor], device: torch.device) -> Batch:
    """Images and labels on the device; those of a resident feed are there."""
    images, labels = (part.to(device, non_blocking=True) for part in batch)
    return images, labels


def train(
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    passes: Iterator[Iterable[Batch]],
    batches: int,
    recipe: Recipe,
    device: torch.device,
    clock: Clock,
    *,
    each_step: Callable[[], None] = lambda: None,
    each_pass: Callable[[], None] = lambda: None,
) -> None:
    """The loop that one would write by hand.

    Args:
        loss: Of images and labels.
        optimizer: Over the parameters that are trained.
        passes: The epochs' loaders.
        batches: How many of a loader's batches make an epoch.
        recipe: Precision, accumulation, clipping.
        device: Where to.
        clock: Stopped by it.
        each_step: The schedule's step after each of the optimizer's.
        each_pass: The schedule's step after each epoch.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    half = HALF.get(recipe.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    for loader in passes:
        for number, batch in enumerate(itertools.islice(loader, batches), 1):
            images, labels = to_device(batch, device)
            with torch.autocast(device.type, half, enabled=half is not None):
                value = loss(images, labels)
            scaler.scale(value / recipe.accumulate).backward()
            if number % recipe.accumulate == 0 or number == batches:
                if recipe.clip:
                    scaler.unscale_(optimizer)
                    (clip_grad_value_ if recipe.clip_by == "value" else clip_grad_norm_)(parameters, recipe.clip)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                each_step()
            clock.step()
            if clock.done:
                return
        each_pass()


def passes(trainer: Trainer) -> Iterator[Iterable[Batch]]:
    """The Trainer's training loader, over and over; each pass is the epoch that its counter says."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    while True:
        yield trainer.train_dataloader  # type: ignore[misc]
        epochs.completed += 1


def recipe_of(trainer: Trainer) -> Recipe:
    """What a Trainer was told to do."""
    return Recipe(
        trainer.precision,
        trainer.accumulate_grad_batches,
        trainer.gradient_clip_val,  # type: ignore[attr-defined]
        trainer.gradient_clip_algorithm or "norm",  # type: ignore[attr-defined]
    )


def pull(trainer: Trainer, pl_module: LightningModule, clock: Clock) -> None:
    """The Trainer's batches brought to its device, and nothing done to them."""
    for batch in itertools.chain.from_iterable(passes(trainer)):
        to_device(batch, trainer.strategy.root_device)
        clock.step()
        if clock.done:
            return


def bare(trainer: Trainer, pl_module: LightningModule, clock: Clock) -> None:
    """The Trainer's work, its model, optimizer and schedule, in the loop of :func:`train`."""
    schedules: dict[str, Any] = {settings.interval: settings.scheduler for settings in trainer.lr_scheduler_configs}
    step: Callable[..., Any] = pl_module.training_step
    train(
        lambda images, labels: step((images, labels), 0),
        trainer.optimizers[0],
        passes(trainer),
        int(trainer.num_training_batches),
        recipe_of(trainer),
        trainer.strategy.root_device,
        clock,
        each_step=schedules["step"].step if "step" in schedules else lambda: None,
        each_pass=schedules["epoch"].step if "epoch" in schedules else lambda: None,
    )


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted where they meet the program: there is nothing to save."""

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


BOUND = 0.8  # the share of a step from which one thing is said to limit it


@dataclass
class Measured:
    """A loop's numbers, one a round."""

    name: str
    batch_size: int
    step_ms: list[float] = field(default_factory=list)
    """Milliseconds a step."""
    host_ms: list[float] = field(default_factory=list)
    """Milliseconds to issue one; on an accelerator only."""
    first_s: list[float] = field(default_factory=list)
    """Seconds to the end of the first step, which compiles."""
    peak_bytes: list[int] = field(default_factory=list)
    missing: str = ""
    """Why there are none."""

    def add(self, probe: Probe) -> None:
        self.step_ms.append(probe.clock.step_ms)
        self.host_ms += [statistics.median(probe.clock.host_ms)] if probe.clock.host_ms else []
        self.first_s.append(probe.clock.first_s)
        self.peak_bytes += [probe.peak_bytes] if probe.peak_bytes else []

    @property
    def ms(self) -> float:
        return statistics.median(self.step_ms)

    @property
    def host(self) -> float | None:
        return statistics.median(self.host_ms) if self.host_ms else None

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch_size / self.ms

    def record(self) -> dict[str, Any]:
        """Plain values."""
        if self.missing:
            return {"name": self.name, "missing": self.missing}
        return {
            "name": self.name,
            "images_per_s": self.images_per_s,
            "ms_a_step": self.ms,
            "host_ms_a_step": self.host,
            "peak_memory_bytes": max(self.peak_bytes, default=None),
            "rounds_peak_memory_bytes": self.peak_bytes,
            "first_step_s": self.first_s[0],
            "rounds_ms_a_step": self.step_ms,
        }


def extra_ms(fit: Measured, bare: Measured) -> float:
    """What ``Trainer.fit`` takes longer than the bare loop, a step: the median over the rounds, of each its own."""
    return statistics.median(ours - alone for ours, alone in zip(fit.step_ms, bare.step_ms, strict=True))


def limited_by(feed: Measured, bare: Measured, fit: Measured) -> str:
    """What limits a configuration, in a line."""
    step = f"{fit.ms:,.1f} ms of a step"
    extra = extra_ms(fit, bare)
    if feed.ms >= BOUND * fit.ms:
        return (
            f"feed-bound: the feed alone takes {feed.ms:,.1f} of the {step}; more workers or smaller images would help"
        )
    if fit.host is not None and fit.host >= BOUND * fit.ms:
        remedy = "a larger batch or model.compile would help"
        return f"host-bound: to issue a step takes Python {fit.host:,.1f} of the {step}; {remedy}"
    if fit.host is None and extra >= (1 - BOUND) * fit.ms:
        return f"host-bound: the Trainer itself takes {extra:,.1f} of the {step}; a larger batch would help"
    issued = "" if fit.host is None else f", to issue one {fit.host:,.1f}"
    return f"device-bound: the feed alone takes {feed.ms:,.1f} of the {step}{issued}; the rest is computing"
