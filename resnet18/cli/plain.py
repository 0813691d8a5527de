"""What the commands that import nothing heavy share: argparse with errors of one line, checks of options, a table."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from resnet18.errors import UsageError, hint

MARGIN = 16  # characters at least for a table's last column
WIDE = 1000  # characters of a line that goes to a file or a pipe: a row each, for grep


class PlainParser(argparse.ArgumentParser):
    """Raises :class:`~resnet18.errors.UsageError` where argparse would print its usage and exit."""

    def __init__(self, command: str, **settings: Any) -> None:
        paragraphs = (settings.pop("description", "")).replace("``", "").strip().split("\n\n")
        settings["description"] = "\n\n".join(textwrap.fill(" ".join(one.split()), 79) for one in paragraphs)
        settings["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"lightning {command}", allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            known = [option for action in self._actions for option in action.option_strings]
            raise UsageError(f"{unknown[1]}: there is no such option{hint(unknown[1], known)}")
        raise UsageError(re.sub(r"^argument ([^:]+): ", r"\1: ", message))


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {text}")
        return int(text)

    return read


def plain_name(option: str, name: str) -> str:
    """The name; UsageError if it would lead out of the directory that it is to be in."""
    if name[:1] in ("", ".") or not name.isprintable() or {*"/\\"} & set(name):
        raise UsageError(f"{option}: must be a name without slashes or a dot at its start, not {name!r}")
    return name


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows, the header first: two columns flush left, the others right, the last wrapped in the terminal."""
    # By hand: rich takes 0.2 s for 200 rows.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    indent = " " * (sum(widths) + len(widths))
    room = max(MARGIN, shutil.get_terminal_size((WIDE, 0)).columns - len(indent))
    for *cells, last in rows:
        aligned = [f"{cell:{'<' if n < 2 else '>'}{widths[n]}}" for n, cell in enumerate(cells)]
        first, *more = textwrap.wrap(last, room) or [""]
        print(" ".join([*aligned, first]).rstrip(), *(indent + line for line in more), sep="\n")
