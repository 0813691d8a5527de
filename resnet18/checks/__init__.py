"""What ``lightning check`` looks at: the data in :mod:`resnet18.checks.data`, the network in the other modules.

The order is that of Karpathy, "A Recipe for Training Neural Networks", 2019, https://karpathy.github.io/2019/04/25/recipe/:
become one with the data, then the loss at the start, then overfit one batch, before anything is trained in earnest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

Level = Literal["ok", "warn", "wrong", "skip"]


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Args:
        level: ``skip`` where the look could not be taken.
        name: A word or two.
        numbers: What was measured, on one line.
        advice: What it means and what to do, a sentence each; none where all is well.
        table: Rows of words below it, the first of them the head.
    """

    level: Level
    name: str
    numbers: str
    advice: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        numbers: str,
        wrong: Sequence[str] = (),
        warn: Sequence[str] = (),
        table: Sequence[tuple[str, ...]] = (),
    ) -> Self:
        """A finding at the level of the worst that was found."""
        level: Level = "wrong" if wrong else "warn" if warn else "ok"
        return cls(level, name, numbers, (*wrong, *warn), tuple(table))


def some(names: Sequence[str], at_most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
