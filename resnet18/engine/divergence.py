"""Ends a run at the first step whose loss is NaN or infinite, before that step changes a weight.

The loss is checked between the backward pass and the optimizer's step. On a GPU the host waits there for the forward
pass alone, with the backward pass already queued behind it, so that the device stays busy.
"""

import json
import math
import operator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from resnet18.engine import loops
from resnet18.engine.checkpointing import LastCheckpoint
from resnet18.engine.ranks import AsyncMax
from resnet18.engine.stopping import GracefulStop
from resnet18.errors import DivergedError

REPORT = "diverged.json"
SHOWN = 8  # images


class FiniteLoss(Callback):
    """Reports step, learning rate and images, and saves the weights and norm statistics of the step before."""

    def __init__(self, stop: GracefulStop, last: LastCheckpoint | None) -> None:
        self.stop, self.last = stop, last  # the ranks agree on signals in the same message
        self._shared: AsyncMax | None = None
        # Where buffers are found, not the buffers: after the next forward pass one may be another tensor.
        self._found: list[dict[str, Tensor | None]] = []
        self._buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
        self._before: list[Tensor] = []  # their values
        self._losses: list[Tensor] = []  # of the step's batches so far

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or trainer.strategy.root_device.type == "cuda":
            self._shared = AsyncMax(trainer)
        self._found = [part._buffers for part in pl_module.modules()]
        self._buffers, self._losses = [], []

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._losses:  # in the middle of a step
            return
        known = [tensor for _, _, tensor in self._buffers]
        self._buffers = [
            (found, name, tensor) for found in self._found for name, tensor in found.items() if tensor is not None
        ]
        now = [tensor for _, _, tensor in self._buffers]
        if now and len(known) == len(now) and all(map(operator.is_, known, now)):
            torch._foreach_copy_(self._before, now)
        else:
            self._before = [tensor.clone() for tensor in now]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())
        if self._shared is None or not loops.is_between_steps(trainer):
            return
        # The first rank with a bad loss has the largest number; 0 is none.
        bad = ~torch.stack(self._losses).isfinite().all() * (trainer.world_size - trainer.global_rank)
        self._shared.start(torch.stack([bad, torch.full_like(bad, self.stop.received)]))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        losses, self._losses = self._losses, []
        if self._shared is None:
            bad = not all(map(math.isfinite, losses))
        else:
            bad, signum = map(int, self._shared.wait())
            self.stop.agreed = signum
        if bad:
            self._end(trainer, pl_module, optimizer, losses, rank=trainer.world_size - bad)

    @torch.no_grad()
    def _end(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, losses: list[Tensor], rank: int
    ) -> None:
        for (found, name, tensor), before in zip(self._buffers, self._before, strict=True):
            found[name] = tensor.copy_(before)
        counters = loops.loop_state(trainer)
        loops.rewind_step(counters, len(losses) - 1)
        finite = all(bool(parameter.isfinite().all()) for parameter in module.parameters())
        saved = self.last.save(trainer, counters) if self.last is not None and finite else None
        if not trainer.is_global_zero:
            raise SystemExit(1)
        message = self._report(trainer, optimizer, losses, rank)
        if saved is not None:
            message += f"; the weights after step {trainer.global_step:,} are kept in {saved}"
        elif not finite:
            message += "; the step before has made the weights not finite, and they were not saved"
        raise DivergedError(message)

    def _report(self, trainer: Trainer, optimizer: Optimizer, losses: list[Tensor], rank: int) -> str:
        step, epoch = trainer.global_step + 1, trainer.current_epoch + 1
        rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        # Lightning hands over each loss divided by the batches that its gradient is accumulated over.
        loss = f"{sum(map(float, losses)):g}" if rank == trainer.global_rank else f"not finite on rank {rank}"
        message = f"the loss is {loss} in step {step:,} (epoch {epoch})"
        if rates:
            message += f", at a learning rate of {rates[0]:g}"
        named = getattr(trainer.datamodule, "images_of", None)  # type: ignore[attr-defined]
        done = loops.position(trainer)[1] + 1  # the current batch is not counted yet
        images = named(range(done - len(losses), done), rank) if named else []
        if not images:
            return message
        message += f"; on the images {', '.join(map(str, images[:SHOWN]))}"
        if len(images) > SHOWN:
            message += f" and {len(images) - SHOWN:,} more"
        if self.last is None or self.last.dirpath is None:
            return message
        report = self.last.dirpath.parent / REPORT
        record = {"step": step, "epoch": epoch, "lr": rates, "loss": loss, "rank": rank, "images": images}
        report.write_text(json.dumps(record, indent=2) + "\n")
        return f"{message} (all in {report})"
