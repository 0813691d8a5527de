"""Progress: a line an epoch, and a live bar below it on a terminal.

A line is at most as wide as the terminal, and 80 characters elsewhere. The bar is redrawn at most twice a second, with
numbers of the last log point: Lightning's bars wait for the device at every step for the metrics they show.
"""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from resnet18.engine.loops import at_log_point, batches_done
from resnet18.engine.stopping import ipython
from resnet18.errors import written

REDRAW_S = 0.5
# The order in an epoch's line; the model's and the callbacks' other metrics stand between these.
FIRST, LAST = ("train/loss", "val/loss", "val/top1"), ("val/top5", "images_per_s", "took")


class EpochLines(ProgressBar):
    """One line an epoch; with a live bar where the output is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        # A notebook's output passes for a terminal, but keeps what a bar should replace.
        terminal = False if hasattr(ipython(), "kernel") else None
        look = {"highlight": False, "markup": False, "soft_wrap": True, "force_jupyter": False}
        self.console = Console(file=sys.stdout, force_terminal=terminal, **look)
        self._bar: Progress | None = None
        self._images = 0  # scored or predicted, on all ranks
        self._drawn = self._began = self._epoch_began = 0.0
        self._numbers = ""
        # Metrics measured before the epoch; a new measurement is another tensor.
        self._before: dict[str, Tensor] = {}

    def disable(self) -> None:  # Lightning's, on all ranks but the first
        self.console.quiet = True

    def enable(self) -> None:
        self.console.quiet = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        self.console.print(*args, **kwargs)

    def _open(self, total: float, done: int = 0) -> None:
        self._images, self._began = 0, time.monotonic()
        if self.console.quiet or not self.console.is_terminal or total == float("inf"):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),  # the whole fits a terminal of 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            auto_refresh=False,  # no thread: the steps themselves redraw it
            transient=True,
        )
        self._bar.add_task("", total=total, completed=done, numbers="")
        self._bar.start()

    def _draw(self, completed: int, description: str) -> None:
        if self._bar is not None and time.monotonic() - self._drawn >= REDRAW_S:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=completed, description=description, numbers=self._numbers)
            self._bar.refresh()
            self._drawn = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._numbers, self._before = "", {}
        self._open(trainer.estimated_stepping_batches * trainer.accumulate_grad_batches, trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_began, self._before = time.monotonic(), dict(trainer.callback_metrics)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        if at_log_point(trainer, trainer.global_step):
            self._numbers = _short(trainer.callback_metrics)
        self._draw(batches_done(trainer), f"epoch {trainer.current_epoch + 1}/{_last_epoch(trainer)}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = _last_epoch(trainer)
        took = f"{time.monotonic() - self._epoch_began:.1f} s" if self._epoch_began else "resumed"
        measured = trainer.callback_metrics.items()
        new = {name: float(value) for name, value in measured if value is not self._before.get(name)}
        self.print(_line(f"epoch {trainer.current_epoch + 1:>{len(last)}}/{last}", new, took, self.console.width))

    def on_train_end(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(sum(trainer.num_predict_batches))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any, **__: Any
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        rate = self._images / (time.monotonic() - self._began)
        self._numbers = f"{self._images:,} images  {rate:,.0f} images/s"
        self._draw(batch_idx + 1, trainer.state.fn.value if trainer.state.fn else "")  # test or predict

    on_predict_batch_end = on_test_batch_end
    on_test_end = on_predict_end = on_exception = on_train_end


def _line(epoch: str, new: dict[str, float], took: str, width: int) -> str:
    """An epoch and its metrics; the most important are kept if there is not enough room."""
    parts = {name: f"{name} {written(name, value)}" for name, value in new.items()} | {"took": took}
    if "train/loss" in new:
        parts["train/loss"] = parts["train/loss"].removeprefix("train/")
    if "images_per_s" in new:
        parts["images_per_s"] = f"{new['images_per_s']:,.0f} img/s"
    twice = {f"{name}_{which}" for name in new for which in ("step", "epoch")}  # `log` of both
    own = [name for name in new if name not in (*FIRST, *LAST, *twice, "lr")]
    room, kept = width - len(epoch), set[str]()
    for name in ("val/top1", "train/loss", *own, "val/loss", "took", "images_per_s", "val/top5"):
        if name in parts and len(parts[name]) + 2 <= room:
            room -= len(parts[name]) + 2
            kept.add(name)
    return "  ".join([epoch, *(parts[name] for name in (*FIRST, *own, *LAST) if name in kept)])


def _short(metrics: dict[str, Tensor]) -> str:
    parts = [f"loss {metrics['train/loss'].item():.3f}"] if "train/loss" in metrics else []
    parts += [f"top-1 {100 * metrics['val/top1'].item():.2f} %"] if "val/top1" in metrics else []
    parts += [f"{metrics['images_per_s'].item():,.0f} images/s"] if "images_per_s" in metrics else []
    return "  ".join(parts)


def _last_epoch(trainer: Trainer) -> str:
    return "?" if trainer.max_epochs in (None, -1) else str(trainer.max_epochs)
