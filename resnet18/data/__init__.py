"""Data sources and what feeds them to the training loop."""

from resnet18.data.base import ImageDataModule
from resnet18.data.cifar10 import CIFAR10
from resnet18.data.cifar100 import CIFAR100
from resnet18.data.digits import Digits
from resnet18.data.files import Files
from resnet18.data.folder import ImageFolder
from resnet18.data.image_files import ImageFiles
from resnet18.data.imagenet import ImageNet
from resnet18.data.resident import EvaluationLoader, Pixels, TrainLoader

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Digits",
    "EvaluationLoader",
    "Files",
    "ImageDataModule",
    "ImageFiles",
    "ImageFolder",
    "ImageNet",
    "Pixels",
    "TrainLoader",
]
