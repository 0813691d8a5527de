"""A moving average of a network's weights, which scores better than the weights that are trained.

Polyak and Juditsky, 1992; with exponential weights, and a decay that warms up as ``num_updates`` has it in TensorFlow's
``ExponentialMovingAverage``. The average is what is validated, what a checkpoint's ``state_dict`` holds and what a
module holds once it is trained; training goes on with the raw weights, which a whole checkpoint holds beside it.

Lightning's ``EMAWeightAveraging`` has no warm-up, so that a decay of 0.999 carries the initial weights through a short
run, and of checkpoints without an optimizer's state it knows nothing: they hold raw weights beside the average's score.
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


class WeightAverage:
    """The exponential moving average of what a network's state dict holds in floating point.

    That is parameters and buffers, running statistics of norm layers included; whole numbers stay the network's own.
    Averages lie where the tensors lie, in their memory format, and in float32 where these have 16 bits, which could
    not take up a thousandth of a difference. Nothing waits for the device.

    torch's ``AveragedModel`` asks the device in every update whether it is the first, and has no way back from the
    averages in the network to the weights that are trained.

    Args:
        network: The average starts from its weights of now.
        decay: What an average keeps of itself in an update, above 0 and below 1. In the one after step t, counted from
            1, it is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._names: dict[str, int] = {}
        # Where the tensors are found, not the tensors: a buffer may be another one after the next forward pass.
        self._places: list[tuple[dict, str]] = []
        shared: dict[int, int] = {}  # tied weights have several names and one average
        for prefix, part in network.named_modules(remove_duplicate=False):
            for found in (part._parameters, part._buffers):
                for name, tensor in found.items():
                    if tensor is None or not tensor.is_floating_point() or name in part._non_persistent_buffers_set:
                        continue
                    if id(tensor) not in shared:
                        shared[id(tensor)] = len(self._places)
                        self._places.append((found, name))
                    self._names[f"{prefix}.{name}" if prefix else name] = shared[id(tensor)]
        live = self._live()
        self._averages = [
            tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True) for tensor in live
        ]
        self._widened = any(one.dtype != other.dtype for one, other in zip(live, self._averages, strict=True))
        self._raw: list[Tensor] | None = None

    @property
    def swapped_in(self) -> bool:
        """Whether the network holds the averages at present."""
        return self._raw is not None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the network's weights into the averages.

        Args:
            step: How many optimizer steps have been made, 1 after the first.
        """
        live = self._live()
        if self._widened:
            live = [tensor.to(average.dtype) for tensor, average in zip(live, self._averages, strict=True)]
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(self._averages, live, 0)

    def swap_in(self) -> None:
        """Copies the averages into the network's tensors, which keep their places; the raw weights are kept aside."""
        if self._raw is None:
            self._raw = [tensor.detach().clone() for tensor in self._live()]
            _copy(self._live(), self._averages)

    def swap_out(self) -> None:
        """Copies the raw weights back."""
        if self._raw is not None:
            _copy(self._live(), self._raw)
            self._raw = None

    def averages(self) -> dict[str, Tensor]:
        """The averages, under the names of the network's state dict."""
        return self._named(self._averages)

    def raw(self) -> dict[str, Tensor]:
        """Likewise the raw weights, wherever they are at present."""
        return self._named(self._live() if self._raw is None else self._raw)

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Takes averages as :meth:`averages` gives them; what else is in the mapping is passed over."""
        _copy(list(self.averages().values()), [averages[name] for name in self._names])

    def _live(self) -> list[Tensor]:
        return [found[name] for found, name in self._places]

    def _named(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        return {name: tensors[place].detach() for name, place in self._names.items()}


@torch.no_grad()
def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(to, values)


class Averaging(Callback):
    """Keeps the average of a module's ``backbone`` while it trains, and lets it take the backbone's place to be scored.

    Args:
        decay: See :class:`WeightAverage`; 0 for no average.

    Raises:
        ValueError: For a decay outside of 0…1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be at least 0 and below 1, not {decay}")
        self.decay = decay
        self.average: WeightAverage | None = None
        self._stored: dict[str, Tensor] = {}

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


def _prefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {PREFIX + name: weight for name, weight in weights.items()}
