"""resnet18: a PyTorch Lightning research template around a ResNet-18 written by hand.

The names below are imported when first used, so that ``lightning --help`` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors
    from resnet18.analysis.activation import class_activation as class_activation
    from resnet18.backbone import ResNet as ResNet
    from resnet18.backbone import resnet18 as resnet18
    from resnet18.classifier import Classifier as Classifier
    from resnet18.cli.in_process import fit as fit
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
    "CIFAR10": "data.cifar10",
    "CIFAR100": "data.cifar100",
    "Classifier": "classifier",
    "Digits": "data.digits",
    "Files": "data.feeds.files",
    "ImageDataModule": "data.base",
    "ImageFiles": "data.image_files",
    "ImageFolder": "data.folder",
    "ImageNet": "data.imagenet",
    "ImageTensors": "data.feeds.resident",
    "Pixels": "data.feeds.resident",  # the earlier name of ImageTensors
    "ResNet": "backbone",
    "class_activation": "analysis.activation",
    "fit": "cli.in_process",
    "load_run": "runs",
    "resnet18": "backbone",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"resnet18.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
