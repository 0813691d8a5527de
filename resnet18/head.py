"""Which layer of a backbone is its head: the last one, which gives the logits. The rest is its trunk."""

from torch import nn


def head_name(backbone: nn.Module) -> str:
    """The dotted name of the layer that holds the last entry of the state dict; empty for a network of one layer."""
    return next(reversed(backbone.state_dict()), "").rpartition(".")[0]


def head_of(backbone: nn.Module) -> nn.Module:
    """The layer of that name."""
    return backbone.get_submodule(head_name(backbone))
