"""resnet18: a PyTorch Lightning research template around a ResNet-18 written by hand.

The names below are imported when first used, so that ``lightning --help`` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet18.backbone import ResNet as ResNet
    from resnet18.backbone import resnet18 as resnet18
    from resnet18.classifier import Classifier as Classifier
    from resnet18.data.base import ImageDataModule as ImageDataModule
    from resnet18.data.digits import Digits as Digits
    from resnet18.runs import load_run as load_run

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "resnet18.classifier",
    "Digits": "resnet18.data.digits",
    "ImageDataModule": "resnet18.data.base",
    "ResNet": "resnet18.backbone",
    "load_run": "resnet18.runs",
    "resnet18": "resnet18.backbone",
}
__all__ = ["Classifier", "Digits", "ImageDataModule", "ResNet", "__version__", "load_run", "resnet18"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
