"""What ``lightning check`` reports about targets of any kind, and its picture."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resnet18.commands.check_data import balance, target_name

NAMES = ("cat", "dog", "猫")


def source(single_label: bool) -> Any:
    return SimpleNamespace(class_names=NAMES, num_classes=3, is_single_label=single_label)


def test_classes_are_counted_for_class_numbers_only() -> None:
    train, val = torch.tensor([0] * 30 + [1] * 2 + [2] * 9), torch.tensor([0, 1])
    finding = balance(source(single_label=True), train, val)
    assert finding.level == "warn"
    assert "2 (dog) to 30 (cat)" in finding.numbers
    assert "15 times" in finding.advice[0]
    assert "no validation image of 猫" in finding.advice[1]
    several = balance(source(single_label=False), torch.rand(41, 3), torch.rand(5, 3))
    assert several.level == "skip"
    assert "41 to train, 5 to validate" in several.numbers
    assert "float32 of 41×3" in several.numbers
    # int64, but no class numbers
    ages = balance(source(single_label=False), torch.tensor([-1, 99]), torch.tensor([40]))
    assert ages.level == "skip"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (torch.tensor(1), "dog"),
        (torch.tensor([1.0, 0.0, 1.0]), "cat + 猫"),
        (torch.tensor([1, 1, 0], dtype=torch.uint8), "cat + dog"),
        (torch.tensor(0.25), "0.25"),
        (torch.zeros(2, 4), "2×4"),
    ],
)
def test_a_target_is_shown_by_name_or_value(target: torch.Tensor, name: str) -> None:
    single = target.ndim == 0 and not target.is_floating_point()
    assert target_name(source(single), target) == name


def test_an_integer_that_is_no_class_number_is_shown_as_a_value() -> None:
    assert target_name(source(single_label=False), torch.tensor(99)) == "99"
