"""A moving average of a network's weights, which scores better than the trained weights.

Polyak and Juditsky, 1992; here exponential, with a decay that warms up as in TensorFlow's ``ExponentialMovingAverage``.
The average is validated, stored in a checkpoint's ``state_dict`` and left in the module after training. Training itself
uses the raw weights, which a whole checkpoint stores beside the average.

Lightning's ``EMAWeightAveraging`` has no warm-up: a decay of 0.999 carries the initial weights through a short run. Its
checkpoints without an optimizer's state hold raw weights beside the average's score.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from resnet18.storage.checkpoints import PREFIX

RAW_WEIGHTS = "raw_weights"  # where a whole checkpoint keeps them
Weights = dict[str, Tensor]


class WeightAverage:
    """The exponential moving average of a network's floating-point state, running statistics included."""

    # torch's AveragedModel waits for the device in every update to learn whether it is the first, and can't swap the
    # averages in the network back for the trained weights.

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        # By their names in the state dict; tied weights have several, with equal averages. A buffer is kept as module
        # and name: it may be another tensor after the next forward pass.
        self._places: dict[str, Tensor | tuple[nn.Module, str]] = {}
        for name, value in network.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                path, _, last = name.rpartition(".")
                found = isinstance(value, nn.Parameter)
                self._places[name] = value if found else (network.get_submodule(path), last)
        # 16-bit weights are averaged in 32 bits: in 16 a thousandth of a difference would be lost.
        self._averages = [
            one.detach().to(torch.promote_types(one.dtype, torch.float32), copy=True) for one in self._live()
        ]
        self._raw: list[Tensor] = []  # while the network holds the averages

    def _live(self) -> list[Tensor]:
        return [getattr(*place) if isinstance(place, tuple) else place for place in self._places.values()]

    @property
    def swapped_in(self) -> bool:
        """Whether the network holds the averages."""
        return bool(self._raw)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the averages after optimizer step ``step``, counted from 1."""
        pairs = zip(self._live(), self._averages, strict=True)
        weights = [one if one.dtype == average.dtype else one.to(average.dtype) for one, average in pairs]
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(self._averages, weights, 0)

    def swap_in(self) -> None:
        """Copies the averages into the network's tensors in place, and keeps the raw weights aside."""
        if not self._raw:
            self._raw = [one.detach().clone() for one in self._live()]
            _copy(self._live(), self._averages)

    def swap_out(self) -> None:
        """Copies the raw weights back."""
        if self._raw:
            _copy(self._live(), self._raw)
            self._raw = []

    def averages(self) -> Weights:
        """The averages, under the names of the network's state dict."""
        return dict(zip(self._places, self._averages, strict=True))

    def raw(self) -> Weights:
        """The raw weights, under the same names."""
        return {name: one.detach() for name, one in zip(self._places, self._raw or self._live(), strict=True)}

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`averages` gave; other entries of the mapping are ignored."""
        _copy(self._averages, [averages[name] for name in self._places])


@torch.no_grad()
def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(to, values)


class Averaging(Callback):
    """Averages a module's ``backbone`` in training, and swaps the average in for validation and at the end."""

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be at least 0 and below 1, not {decay}")
        self.decay = decay
        self.average: WeightAverage | None = None
        self._stored: Weights = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The weights are on their device by now, and those of a checkpoint loaded.
        backbone: Any = pl_module.backbone
        self.average = average = WeightAverage(backbone, self.decay)
        if self._stored:
            average.load(self._stored)
            self._stored = {}
        # A hook of the optimizer runs once a step, of however many batches, and before any callback saves at the
        # batch's end. Lightning counts the step just after.
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: average.update(trainer.global_step + 1))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None and trainer.state.fn == TrainerFn.FITTING:
            self.average.swap_in()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None and trainer.state.fn == TrainerFn.FITTING:
            self.average.swap_out()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None) -> None:
        if self.average is not None:
            self.average.swap_in()

    on_exception = on_fit_end

    def write_weights(self, checkpoint: dict[str, Any]) -> None:
        """Puts the averages into a checkpoint's state dict, and the raw weights into a whole checkpoint."""
        if self.average is None:
            return
        if not self.average.swapped_in:
            checkpoint["state_dict"].update(_prefixed(self.average.averages()))
        if "optimizer_states" in checkpoint:
            checkpoint[RAW_WEIGHTS] = self.average.raw()

    def read_weights(self, checkpoint: dict[str, Any]) -> None:
        """Puts a checkpoint's raw weights into its state dict, to resume from, and keeps the averages."""
        raw = checkpoint.get(RAW_WEIGHTS, {})
        self._stored = {name: checkpoint["state_dict"][PREFIX + name] for name in raw}
        checkpoint["state_dict"].update(_prefixed(raw))


def _prefixed(weights: Weights) -> Weights:
    return {PREFIX + name: weight for name, weight in weights.items()}
