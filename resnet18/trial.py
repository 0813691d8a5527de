"""One black image through a network, before anything is written or trained: do the two fit each other?"""

import copy
from textwrap import shorten

import torch

from resnet18.classifier import Classifier
from resnet18.errors import UsageError


def try_one_image(model: Classifier, input_size: tuple[int, int, int], device: torch.device) -> None:
    """Runs it in evaluation mode, on the CPU; a network that fails there may need its device, and gets it.

    Args:
        model: On the CPU, and left as it is.
        input_size: Channels, height and width.
        device: What will be trained on.

    Raises:
        UsageError: Where the network does not take such images, or gives other than a logit for each class.
    """
    error = _fails(model, input_size)
    if error and device.type != "cpu":
        error = _fails(copy.deepcopy(model).to(device), input_size)
    if error:
        size = "×".join(map(str, input_size))
        raise UsageError(f"model.backbone: {type(model.backbone).__name__} does not fit images of {size}: {error}")


def _fails(model: Classifier, input_size: tuple[int, int, int]) -> str:
    image = torch.zeros(1, *input_size, dtype=torch.uint8, device=model.mean.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            logits = model(image)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return shorten(str(error), 240)
    finally:
        for module, training in modes.items():
            module.training = training
    shape, expected = list(getattr(logits, "shape", ())), [1, model.num_classes]
    return "" if shape == expected else f"it gives {shape or type(logits).__name__}, and not {expected} logits"
