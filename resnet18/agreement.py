"""What any rank knows, shared with all of them, without waiting for what the device is busy with.

A rank that stops alone leaves the others waiting in their next collective for ever. So whatever may stop a run is put
to all ranks, at the same point of the same step.
"""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor


class Agreement:
    """Asks for the largest value over all ranks, element by element, and has the answer a little later.

    On a GPU neither the host nor the running kernels wait in between: the values are gathered on a stream of their own,
    and the answer is waited for only as far as what was queued before the question.

    Args:
        trainer: Whose ranks, and whose device.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.device, self.ranks = trainer.strategy.root_device, trainer.world_size
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._ready: torch.cuda.Event | None = None
        self._shared: Tensor | None = None

    def ask(self, values: Sequence[float] | Tensor) -> None:
        """Says what this rank knows: so many numbers, the same count on every rank and in every question."""
        said = torch.as_tensor(values, dtype=torch.float32)
        if self._stream is None:
            self._shared = said.to(self.device)  # already there, but for one that was given as numbers
            if self.ranks > 1:
                torch.distributed.all_reduce(self._shared, torch.distributed.ReduceOp.MAX)
            return
        said = said.pin_memory().to(self.device, non_blocking=True) if said.device.type == "cpu" else said.clone()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            said.record_stream(self._stream)
            if self.ranks > 1:
                torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
            self._shared = torch.empty(said.shape, pin_memory=True).copy_(said, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(self._stream)

    def answer(self) -> list[float]:
        """What the ranks know between them of what was asked last."""
        assert self._shared is not None, "nothing was asked"
        if self._ready is not None:
            # An event, not the stream: torch.cuda.set_sync_debug_mode, which finds accidental waits, objects to those
            # for streams, as to those for the device.
            self._ready.synchronize()
        return self._shared.tolist()
