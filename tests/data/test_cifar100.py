"""CIFAR-100's classes, by the class path of configurations and stored runs; see test_cifar10.py for its archive."""

from torchvision import datasets

from resnet18 import CIFAR100


def test_cifar100_has_the_hundred_fine_labels_in_the_order_of_the_archive() -> None:
    assert f"{CIFAR100.__module__}.{CIFAR100.__qualname__}" == "resnet18.data.cifar100.CIFAR100"
    assert CIFAR100.archive is datasets.CIFAR100
    assert list(CIFAR100.class_names) == sorted(set(CIFAR100.class_names))  # the archive's labels are alphabetical
    assert CIFAR100().num_classes == 100
