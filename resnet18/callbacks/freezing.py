"""Training the head alone for the first epochs, on the features of weights that exist already (``--init_from``).

    trainer:
      callbacks:
        - class_path: resnet18.callbacks.freezing.Freeze
          init_args: {epochs: 2}

Lightning's ``BackboneFinetuning`` does the same, but lets the frozen norm layers' running statistics move.
"""

from typing import Annotated, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from resnet18.optimization import NORMS, head_of


class Freeze(Callback):
    """Freezes all but the backbone's last layer for the first epochs; then everything trains.

    Frozen weights get no gradients, decay or momentum, and frozen norm layers stay in evaluation mode.

    Args:
        epochs: Number of frozen epochs; the whole run's, or more, for a linear probe.
    """

    # There is no state to save: the epoch alone decides. The optimizer holds all parameters from the beginning, and the
    # schedule is not affected.

    def __init__(self, epochs: Annotated[int, Field(ge=0)]) -> None:
        self.epochs = epochs
        self._parameters: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not earlier: the optimizer takes what requires a gradient. Parameters that it lacks were frozen elsewhere.
        held = {one for optimizer in trainer.optimizers for group in optimizer.param_groups for one in group["params"]}
        backbone: Any = pl_module.backbone
        head = head_of(backbone)
        trunk, norms = held - set(head.parameters()), set(backbone.modules()) - set(head.modules())
        self._parameters = [one for one in backbone.parameters() if one in trunk]
        self._norms = [one for one in norms if isinstance(one, NORMS) and one.training]
        self.on_train_epoch_start(trainer, pl_module)  # a run resumed in mid-epoch skips it

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(trainer, frozen=trainer.current_epoch < self.epochs)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.current_epoch < self.epochs:
            for parameter in self._parameters:
                parameter.grad = None

    def on_train_end(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None
    ) -> None:
        self._set(trainer, frozen=False)

    on_exception = on_train_end

    def _set(self, trainer: Trainer, frozen: bool) -> None:
        # Without gradients the backward pass ends at the head. On several ranks DDP averages what required a gradient
        # when it wrapped the model and would not notice a change: there gradients are dropped before each step.
        for parameter in self._parameters:
            parameter.requires_grad_(not frozen or trainer.world_size > 1)
        for norm in self._norms:
            norm.train(not frozen)
