"""The errors that end a command in a few lines instead of a traceback, and phrases that their messages share."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """What was typed or configured is wrong; the command ends with exit status 2."""


class RunError(Exception):
    """A file, the data or the machine is not as needed; the command ends with exit status 1."""


class DivergedError(RunError):
    """The loss or the weights are no longer finite."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like this one, if any is; of dotted names those of the same group come first."""
    known = sorted(known)
    group, _, last = name.rpartition(".")
    elsewhere = {candidate.rpartition(".")[2]: candidate for candidate in known}
    beside = {candidate.rpartition(".")[2]: candidate for candidate in known if candidate.rpartition(".")[0] == group}
    whole = {} if beside else {candidate: candidate for candidate in known}
    for wanted, names in ((last, beside), (name, whole), (last, elsewhere)):
        swapped = [other for other in names if sorted(other) == sorted(wanted)]  # letters swapped, in `lr` too
        if close := swapped or difflib.get_close_matches(wanted, names, n=1):
            return names[close[0]]
    initials = "".join(word[:1] for word in last.split("_"))  # learning_rate: lr
    return beside.get(initials) if len(initials) > 1 else None


def hint(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near and near != name else ""


def classes_below(*kinds: type) -> dict[str, type]:
    """All public classes of these kinds that have been imported, by their names."""
    found: dict[str, type] = {}
    for kind in kinds:
        for subclass in kind.__subclasses__():
            found |= {subclass.__name__: subclass, **classes_below(subclass)}
    return {name: found[name] for name in sorted(found) if name[0] != "_"}


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 image, 2,000 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def written(name: str, value: float) -> str:
    """A value as it is printed: top-k in %, all else with four decimals, or four digits from 1,000 on."""
    if name.rpartition("/")[2].startswith("top"):
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
