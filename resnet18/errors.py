"""The two errors that end a command in a few lines instead of a traceback."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """What was typed or configured is wrong; the command ends with exit status 2."""


class RunError(Exception):
    """A file, the data or the machine is not as needed; the command ends with exit status 1."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is likest, where one is like it at all; of dotted names the last parts are compared.

    Those of the same group come first, then whole names, then those of other groups.
    """
    known = sorted(known)
    group, _, last = name.rpartition(".")
    beside = {candidate.rpartition(".")[2]: candidate for candidate in known if candidate.rpartition(".")[0] == group}
    elsewhere = {candidate.rpartition(".")[2]: candidate for candidate in known}
    whole = {} if beside else {candidate: candidate for candidate in known}
    for wanted, names in ((last, beside), (name, whole), (last, elsewhere)):
        swapped = [known_name for known_name in names if sorted(known_name) == sorted(wanted)]  # in two letters, too
        if close := swapped or difflib.get_close_matches(wanted, names, n=1, cutoff=0.6):
            return names[close[0]]
    return next((beside[short] for short in beside if len(short) > 1 and short == _initials(last)), None)


def classes_below(*kinds: type) -> dict[str, type]:
    """All classes of these kinds that have been imported, by their names."""
    found: dict[str, type] = {}
    for kind in kinds:
        for subclass in kind.__subclasses__():
            found |= {subclass.__name__: subclass, **classes_below(subclass)}
    return {name: found[name] for name in sorted(found) if name[0] != "_"}


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def hint(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near and near != name else ""


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 image, 2,000 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
