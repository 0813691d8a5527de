"""What the last layer of a network gets: an image as a vector, of any network."""

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
