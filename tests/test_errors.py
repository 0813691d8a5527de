"""What messages are made of: the nearest known name, and numbers with their nouns."""

import pytest

from resnet18.errors import classes_below, counted, hint, nearest

OPTIONS = ("data.batch_size", "data.root", "model.optimizer.lr", "model.optimizer.momentum", "trainer.max_epochs")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("model.optimizer.momentun", "model.optimizer.momentum"),
        ("model.optimizer.rl", "model.optimizer.lr"),  # swapped, and too short for a likeness
        ("model.optimizer.learning_rate", "model.optimizer.lr"),
        ("model.batch_size", "data.batch_size"),  # in another group
        ("modle.optimizer.lr", "model.optimizer.lr"),
        ("batch_siz", "data.batch_size"),
        ("model.optimizer.x", None),
        ("nonsense", None),
    ],
)
def test_the_nearest_name_is_found(name: str, near: str | None) -> None:
    assert nearest(name, OPTIONS) == near
    assert hint(name, OPTIONS) == (f"; did you mean {near}?" if near else "")


def test_of_the_same_group_a_less_like_name_comes_before_the_same_name_elsewhere() -> None:
    assert nearest("model.widths", ["data.widths", "model.width"]) == "model.width"
    assert nearest("a.width", ["a.widths", "b.widths"]) == "a.widths"


def test_a_known_name_needs_no_hint() -> None:
    assert nearest("fit", ["fit", "test"]) == "fit"
    assert hint("fit", ["fit", "test"]) == ""


@pytest.mark.parametrize(
    ("count", "noun", "text"), [(1, "image", "1 image"), (0, "step", "0 steps"), (2000, "image", "2,000 images")]
)
def test_a_number_goes_with_its_noun(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


def test_classes_of_a_kind_are_found_at_any_depth_by_their_public_names() -> None:
    class AnyError(Exception): ...

    class BrokenError(AnyError): ...

    class WorseError(BrokenError): ...

    class _HiddenError(BrokenError): ...

    assert classes_below(AnyError) == {"BrokenError": BrokenError, "WorseError": WorseError}
