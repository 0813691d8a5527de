"""Ends a run at the first step whose loss is NaN or infinite, before that step changes a weight.

The loss is looked at between the backward pass and the optimizer's step. On a GPU the host waits there for the forward
pass alone, with the backward pass already queued behind it, so that the device does not run dry.
"""

import json
import math
import operator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from resnet18.engine.checkpointing import LastCheckpoint
from resnet18.engine.loops import before_step, is_between_steps, loop_state, position
from resnet18.engine.ranks import AsyncMax
from resnet18.engine.stopping import GracefulStop
from resnet18.errors import RunError

REPORT = "diverged.json"
_SHOWN = 8


class FiniteLoss(Callback):
    """Says in which step, at which learning rate and on which images, and keeps the weights of the step before.

    They are saved as a run's ``last.ckpt``, with the running statistics of norm layers as they were then, which the bad
    batch has already spoilt; the whole list of images goes into ``diverged.json`` beside ``metrics.csv``.

    Args:
        stop: Told what the ranks agree on of signals, which are asked about in the same breath.
        last: What writes the checkpoint, where there is one.

    Raises:
        RunError: In ``on_before_optimizer_step``, where the loss of any rank is not finite; from rank 0, which speaks
            for the others. These end too, with status 1.
    """

    def __init__(self, stop: GracefulStop, last: LastCheckpoint | None) -> None:
        self.stop, self.last = stop, last
        self._shared: AsyncMax | None = None
        # Where buffers are found, not the buffers: after the next forward pass one may be another tensor.
        self._found: list[dict[str, Tensor | None]] = []
        self._buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
        self._before: list[Tensor] = []
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or trainer.strategy.root_device.type == "cuda":
            self._shared = AsyncMax(trainer)
        self._found = [part._buffers for part in pl_module.modules()]
        self._buffers, self._losses = [], []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._losses:  # the first batch of a step
            self._note_buffers()

    @torch.no_grad()
    def _note_buffers(self) -> None:
        known = [tensor for _, _, tensor in self._buffers]
        self._buffers = [
            (found, name, tensor) for found in self._found for name, tensor in found.items() if tensor is not None
        ]
        now = [tensor for _, _, tensor in self._buffers]
        if now and len(known) == len(now) and all(map(operator.is_, known, now)):
            torch._foreach_copy_(self._before, now)
        else:
            self._before = [tensor.clone() for tensor in now]

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        for (found, name, tensor), before in zip(self._buffers, self._before, strict=True):
            found[name] = tensor.copy_(before)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())
        if self._shared is None or not is_between_steps(trainer):
            return
        # The first of the ranks that are in trouble has the largest number; 0 is none of them.
        bad = ~torch.stack(self._losses).isfinite().all() * (trainer.world_size - trainer.global_rank)
        self._shared.start(torch.stack([bad, torch.full_like(bad, self.stop.received)]))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        losses, self._losses = self._losses, []
        if self._shared is None:
            if all(math.isfinite(loss) for loss in losses):
                return
            rank = 0
        else:
            bad, signum = self._shared.wait()
            self.stop.agreed = int(signum)
            if not bad:
                return
            rank = trainer.world_size - int(bad)
        self._restore_buffers()
        loops = loop_state(trainer)
        before_step(loops, len(losses) - 1)
        finite = all(bool(parameter.isfinite().all()) for parameter in pl_module.parameters())
        saved = self.last.save(trainer, loops) if self.last is not None and finite else None
        if not trainer.is_global_zero:
            raise SystemExit(1)
        lines = self._report(trainer, optimizer, losses, rank)
        if saved is not None:
            lines.append(f"the weights after step {trainer.global_step:,} are kept in {saved}")
        elif not finite:
            lines.append("the step before has spoilt the weights too, which were not saved")
        raise RunError("; ".join(lines))

    def _report(self, trainer: Trainer, optimizer: Optimizer, losses: list[Tensor], rank: int) -> list[str]:
        step, epoch = trainer.global_step + 1, trainer.current_epoch + 1
        rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        # Lightning hands over each loss divided by the batches that its gradient is accumulated over.
        loss = f"{sum(map(float, losses)):g}" if rank == trainer.global_rank else f"not finite on rank {rank}"
        named = getattr(trainer.datamodule, "images_of", None)  # type: ignore[attr-defined]
        done = position(trainer)[1] + 1  # the current batch is not counted yet
        images = named(range(done - len(losses), done), rank) if named else []
        lines = [f"the loss is {loss} in step {step:,} (epoch {epoch})"]
        lines[0] += f", at a learning rate of {rates[0]:g}" if rates else ""
        if images:
            more = f" and {len(images) - _SHOWN:,} more" if len(images) > _SHOWN else ""
            lines.append(f"on the images {', '.join(map(str, images[:_SHOWN]))}{more}")
        if images and self.last is not None and self.last.dirpath is not None:
            report = self.last.dirpath.parent / REPORT
            record = {"step": step, "epoch": epoch, "lr": rates, "loss": loss, "rank": rank, "images": images}
            report.write_text(json.dumps(record, indent=2) + "\n")
            lines[-1] += f" (all in {report})"
        return lines
