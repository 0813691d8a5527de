"""What a network makes of an image on its way to the logits, of any network: a vector, and a map."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from resnet18.optimization import head_of


@contextmanager
def kept_features(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Keeps the input of the last layer, N×D, at every forward pass; of a network of one layer it is the images."""
    kept: list[Tensor] = []
    hook = head_of(backbone).register_forward_pre_hook(lambda layer, given: kept.append(given[0].detach().flatten(1)))
    try:
        yield kept
    finally:
        hook.remove()


@contextmanager
def last_map(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Keeps the last output of a layer that is a map, N×C×H×W with H and W above 1, of the latest forward pass."""
    kept: list[Tensor] = []

    def keep(layer: nn.Module, given: object, made: object) -> None:
        if isinstance(made, Tensor) and made.ndim == 4 and min(made.shape[2:]) > 1:
            kept[:] = [made]

    hooks = [layer.register_forward_hook(keep) for layer in backbone.modules() if layer is not backbone]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
