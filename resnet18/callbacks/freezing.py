"""Training the head alone for the first epochs, on the features of weights that exist already (``--init_from``).

    trainer:
      callbacks:
        - class_path: resnet18.callbacks.freezing.Freeze
          init_args: {epochs: 2}

Lightning's ``BackboneFinetuning`` does the like, but lets the frozen norm layers' running statistics move.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from resnet18.optimization import NORMS, head_of


class Freeze(Callback):
    """Keeps all but the backbone's last layer as it is for so many epochs; then everything trains.

    The frozen weights see neither gradients nor decay nor momentum, and frozen norm layers stay in evaluation mode.
    What is frozen depends on the number of the epoch alone, so there is no state to save. The optimizer holds all
    parameters from the beginning, and the schedule goes on through the change.

    Args:
        epochs: How many; as many as the run has, or more, train a linear probe.

    Raises:
        ValueError: For a number below 0.
    """

    def __init__(self, epochs: int) -> None:
        if epochs < 0:
            raise ValueError(f"epochs must be at least 0, not {epochs}")
        self.epochs = epochs
        self._parameters: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: the optimizer is made of what requires a gradient. What it does not hold was frozen by others.
        backbone: Any = pl_module.backbone
        head = head_of(backbone)
        head_parameters, head_modules = set(head.parameters()), set(head.modules())
        held = {
            parameter
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self._parameters = [one for one in backbone.parameters() if one in held - head_parameters]
        self._norms = [
            one for one in backbone.modules() if isinstance(one, NORMS) and one.training and one not in head_modules
        ]
        self._set(trainer, self._frozen(trainer))  # a run resumed in mid-epoch has no epoch start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(trainer, self._frozen(trainer))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._frozen(trainer):
            for parameter in self._parameters:
                parameter.grad = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(trainer, False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._set(trainer, False)

    def _frozen(self, trainer: Trainer) -> bool:
        return trainer.current_epoch < self.epochs

    def _set(self, trainer: Trainer, frozen: bool) -> None:
        # Without gradients the backward pass ends at the head. On several ranks DDP would not notice the change: it
        # averages what required a gradient when it wrapped the model. There gradients are dropped before each step.
        for parameter in self._parameters:
            parameter.requires_grad_(not frozen or trainer.world_size > 1)
        for norm in self._norms:
            norm.train(not frozen)
