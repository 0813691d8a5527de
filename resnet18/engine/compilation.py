"""``torch.compile`` of a backbone: in place, for fixed shapes, and given up in a sentence if no compiler works."""

from textwrap import shorten
from typing import Any

import torch
import torch._functorch.config
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn


def compile_in_place(backbone: nn.Module) -> None:
    """Compiles a network as ``nn.Module.compile`` does, so that the names in its state dict stay plain.

    A graph is made for each shape of a batch; in evaluation mode a batch that is smaller than an earlier one (the last)
    runs eagerly. If the compiler fails (without a C++ compiler or Triton, or on a network it can't compile), that is
    said once, and the network runs uncompiled from then on. The network's own errors are raised as they are.

    Args:
        backbone: Takes one tensor, N×C×H×W.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    # By default the backward graph is compiled in the first backward pass, too late to start over.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    compiled = torch.compile(backbone._call_impl, dynamic=False)
    largest = 0

    def call(images: Tensor) -> Any:
        nonlocal largest
        if not backbone.training:
            largest = max(largest, len(images))
            if len(images) < largest:
                return backbone._call_impl(images)
        try:
            return compiled(images)
        except TorchDynamoException as error:
            backbone._compiled_call_impl = None
            outputs = backbone(images)  # here the network's own errors surface as what they are
            reason = str(error).partition("\n\n")[0]
            rank_zero_info(f"compile: {shorten(reason, 240)}; the training continues uncompiled.")
            return outputs

    backbone._compiled_call_impl = call


def is_compiled(module: nn.Module) -> bool:
    """Whether a module runs compiled."""
    return module._compiled_call_impl is not None
