"""How a training loop is measured: in blocks of steps between two waits for the device, and by the memory it took."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

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
