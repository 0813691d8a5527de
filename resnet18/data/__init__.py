"""Data sources and what feeds them to the training loop."""

from resnet18.data.base import ImageDataModule
from resnet18.data.digits import Digits
from resnet18.data.resident import EvaluationLoader, Pixels, TrainLoader

__all__ = ["Digits", "EvaluationLoader", "ImageDataModule", "Pixels", "TrainLoader"]
