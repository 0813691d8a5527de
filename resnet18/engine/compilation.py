"""``torch.compile`` of a backbone: in place, for fixed shapes, and given up in a sentence where no compiler works."""

from textwrap import shorten
from typing import Any

import torch
import torch._functorch.config
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn


def compile_in_place(backbone: nn.Module) -> None:
    """Compiles a network as ``nn.Module.compile`` does, so that the names in its state dict stay plain.

    A graph is made for each shape of a batch. One that is smaller than another seen in evaluation mode, the last of an
    evaluation, is not worth its own and runs eagerly. Where the compiler fails (there is no C++ compiler or no Triton,
    or the network is more than it can do), that is said once and the network runs uncompiled from then on. An error of
    the network's own is raised as without compilation.

    Args:
        backbone: One tensor, N×C×H×W, in.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and wanted here only

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
            rank_zero_info(f"compile: {shorten(reason, 240)}; the training goes on uncompiled.")
            return outputs

    backbone._compiled_call_impl = call
