"""Where in an image a network sees the class it predicts: LayerCAM.

Jiang et al., "LayerCAM: Exploring hierarchical class activation maps for localization", TIP 2021: a feature map, each
of its values weighted by its own gradient of the class's logit, where that is positive.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from resnet18.analysis.plots import pictures, plain
from resnet18.analysis.predict import BATCH, decided, decision
from resnet18.data.feeds.given import views
from resnet18.engine.features import last_map


def class_activation(model: Any, images: Any) -> numpy.ndarray:
    """How much each pixel speaks for the predicted class: float32 N×H×W from 0 to 1, of the size the network sees.

    Args:
        model: A model, or a run.
        images: What ``run.predict`` takes.

    Raises:
        ValueError: For a network that has no feature map of a height and width above 1.
    """
    model = model if isinstance(model, nn.Module) else model.model
    return _layer_cams(model, [image for _, image in views(model, images)])


def plot_activation(model: Any, x: Any) -> Any:
    """Images with their class activation over them; returns the axes."""
    seen = [*views(model, x)]
    captions = [plain(decision(row), 20) for row in (decided(model, seen) if seen else ())]
    images, title = [image for _, image in seen], "What speaks for the predicted class (LayerCAM)"
    return pictures(images, captions, title, over=_layer_cams(model, images))


def _layer_cams(model: Any, images: Sequence[Tensor]) -> numpy.ndarray:
    batches = [torch.stack([*images[at : at + BATCH]]) for at in range(0, len(images), BATCH)]
    return numpy.concatenate([_layer_cam(model.eval(), batch) for batch in batches] or [numpy.zeros((0, 1, 1))])


@torch.enable_grad()
def _layer_cam(model: Any, images: Tensor) -> numpy.ndarray:
    with last_map(model.backbone) as kept:
        logits = model.backbone(model.normalize(images.to(model.device)).requires_grad_())
    if not kept:
        raise ValueError(f"{type(model.backbone).__name__} has no feature map of a height and width above 1")
    (gradient,) = torch.autograd.grad(logits.max(1).values.sum(), kept[0])
    cam = (gradient.relu() * kept[0].detach()).sum(1, keepdim=True).relu().float()  # N×1×h×w
    cam = interpolate(cam, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    largest = cam.amax((1, 2), keepdim=True)  # 0 where nothing speaks for the class
    return (cam / largest.where(largest > 0, 1)).cpu().numpy()
