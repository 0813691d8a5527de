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
    from resnet18.data.cifar10 import CIFAR10 as CIFAR10
    from resnet18.data.cifar100 import CIFAR100 as CIFAR100
    from resnet18.data.digits import Digits as Digits
    from resnet18.data.feeds.files import Files as Files
    from resnet18.data.feeds.resident import ImageTensors as ImageTensors
    from resnet18.data.feeds.resident import Pixels as Pixels
    from resnet18.data.folder import ImageFolder as ImageFolder
    from resnet18.data.image_files import ImageFiles as ImageFiles
    from resnet18.data.imagenet import ImageNet as ImageNet
    from resnet18.runs import load_run as load_run

__version__ = "0.1.0"

_HOMES = {
    "CIFAR10": "resnet18.data.cifar10",
    "CIFAR100": "resnet18.data.cifar100",
    "Classifier": "resnet18.classifier",
    "Digits": "resnet18.data.digits",
    "Files": "resnet18.data.feeds.files",
    "ImageDataModule": "resnet18.data.base",
    "ImageFiles": "resnet18.data.image_files",
    "ImageFolder": "resnet18.data.folder",
    "ImageNet": "resnet18.data.imagenet",
    "ImageTensors": "resnet18.data.feeds.resident",
    "Pixels": "resnet18.data.feeds.resident",  # the earlier name of ImageTensors
    "ResNet": "resnet18.backbone",
    "load_run": "resnet18.runs",
    "resnet18": "resnet18.backbone",
}
__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Classifier",
    "Digits",
    "Files",
    "ImageDataModule",
    "ImageFiles",
    "ImageFolder",
    "ImageNet",
    "ImageTensors",
    "Pixels",
    "ResNet",
    "__version__",
    "load_run",
    "resnet18",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
