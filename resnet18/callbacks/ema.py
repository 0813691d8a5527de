"""A moving average of a network's weights, which scores better than the weights that are trained.

Polyak and Juditsky, 1992; here exponential, with a decay that warms up as in TensorFlow's ``ExponentialMovingAverage``.
The average is what is validated, what a checkpoint's ``state_dict`` holds and what a module holds once it is trained;
training continues with the raw weights, which a whole checkpoint holds beside it.

Lightning's ``EMAWeightAveraging`` has no warm-up, so that a decay of 0.999 carries the initial weights through a short
run, and its checkpoints without an optimizer's state hold raw weights beside the average's score.
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
    """The exponential moving average of what a network's state dict holds in floating point, running statistics too.

    It starts from the weights of now. In the update after optimizer step t, counted from 1, an average keeps the share
    min(decay, (1 + t) / (10 + t)) of itself, with a decay above 0 and below 1.

    torch's ``AveragedModel`` asks the device in every update whether it is the first, and has no way back from the
    averages in the network to the weights that are trained.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        # By their names in the state dict; tied weights have several, with equal averages. Where buffers are found and
        # not the tensors: one may be another tensor after the next forward pass.
        self._places: dict[str, Tensor | tuple[nn.Module, str]] = {}
        for name, value in network.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                path, _, last = name.rpartition(".")
                found = isinstance(value, nn.Parameter)
                self._places[name] = value if found else (network.get_submodule(path), last)
        # In 32 bits where weights have 16, which could not take up a thousandth of a difference.
        self._averages = [
            one.detach().to(torch.promote_types(one.dtype, torch.float32), copy=True) for one in self._live()
        ]
        self._raw: list[Tensor] = []  # while the network holds the averages

    def _live(self) -> list[Tensor]:
        return [getattr(*place) if isinstance(place, tuple) else place for place in self._places.values()]

    @property
    def swapped_in(self) -> bool:
        """Whether the network holds the averages at present."""
        return bool(self._raw)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the network's weights into the averages after optimizer step ``step``, 1 for the first."""
        pairs = zip(self._live(), self._averages, strict=True)
        weights = [one if one.dtype == average.dtype else one.to(average.dtype) for one, average in pairs]
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(self._averages, weights, 0)

    def swap_in(self) -> None:
        """Copies the averages into the network's tensors, which keep their places; the raw weights are kept aside."""
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
        """The raw weights under these names, wherever they are at present."""
        return {name: one.detach() for name, one in zip(self._places, self._raw or self._live(), strict=True)}

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Takes averages as :meth:`averages` gives them; what else is in the mapping is passed over."""
        _copy(self._averages, [averages[name] for name in self._places])


@torch.no_grad()
def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(to, values)


class Averaging(Callback):
    """Keeps the average of a module's ``backbone`` while it trains, and lets it take the backbone's place to be scored.

    ``decay`` is that of :class:`WeightAverage`, 0 for no average; the ValueError is for one outside of 0…1.
    """

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
        # A hook of the optimizer's: it runs once a step, however many batches that takes, and before any callback
        # sees the batch's end and saves. Lightning counts the step just after.
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(lambda *_: average.update(trainer.global_step + 1))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None and trainer.state.fn == TrainerFn.FITTING:
            self.average.swap_in()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None and trainer.state.fn == TrainerFn.FITTING:
            self.average.swap_out()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None:
            self.average.swap_in()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.average is not None:
            self.average.swap_in()

    def write_weights(self, checkpoint: dict[str, Any]) -> None:
        """Puts the averages into a checkpoint's state dict, and the raw weights into a whole one, at any time."""
        if self.average is None:
            return
        if not self.average.swapped_in:
            checkpoint["state_dict"].update(_prefixed(self.average.averages()))
        if "optimizer_states" in checkpoint:
            checkpoint[RAW_WEIGHTS] = self.average.raw()

    def read_weights(self, checkpoint: dict[str, Any]) -> None:
        """Puts the raw weights of a checkpoint into its state dict, to resume from, and notes the averages."""
        raw = checkpoint.get(RAW_WEIGHTS, {})
        self._stored = {name: checkpoint["state_dict"][PREFIX + name] for name in raw}
        checkpoint["state_dict"].update(_prefixed(raw))


def _prefixed(weights: Weights) -> Weights:
    return {PREFIX + name: weight for name, weight in weights.items()}
