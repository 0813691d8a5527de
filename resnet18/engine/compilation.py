"""``torch.compile`` of a backbone: in place, for fixed shapes, and eager after a message if the compiler fails."""

from textwrap import shorten
from typing import Any

import torch
import torch._functorch.config
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn


def compile_in_place(backbone: nn.Module) -> None:
    """Compiles a network as ``nn.Module.compile`` does, so that the names in its state dict stay plain."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    # By default the backward graph is compiled in the first backward pass, too late to start over.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    compiled = torch.compile(backbone._call_impl, dynamic=False)
    largest = 0

    def call(images: Tensor) -> Any:
        nonlocal largest
        if not backbone.training:
            largest = max(largest, len(images))
            if len(images) < largest:  # the last batch, not worth a graph of its own
                return backbone._call_impl(images)
        try:
            return compiled(images)
        except TorchDynamoException as error:  # no C++ compiler, no Triton, or a network that it can't compile
            backbone._compiled_call_impl = None
            outputs = backbone(images)  # raises the network's own errors unchanged
            reason = str(error).partition("\n\n")[0]
            rank_zero_info(f"compile: {shorten(reason, 240)}; the training continues uncompiled.")
            return outputs

    backbone._compiled_call_impl = call
