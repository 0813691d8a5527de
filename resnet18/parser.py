"""The command line's parser: no abbreviations, and errors of a few lines instead of seventy lines of usage.

An error says which file and key are at fault, what was expected, and the nearest right name.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from resnet18.errors import UsageError

_LINES, _WIDTH = 8, 240


class Parser(LightningArgumentParser):
    """Raises :class:`~resnet18.errors.UsageError` where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # or `--trainer.max_epoch 3` is taken, in silence, for max_epochs
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser: the outer one reports
            super().error(message, ex)
        raise UsageError(explain(message, self.known_names()))

    def known_names(self) -> list[str]:
        """Every option, without its dashes."""
        return [string.lstrip("-") for action in self._actions for string in action.option_strings if string[:2] == "--"]


def explain(message: str, known: Iterable[str]) -> str:
    """An error of jsonargparse in a few lines, with the nearest right name where a name is wrong."""
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    text = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]} …" for line in lines[:_LINES]]
    wrong = _wrong_name(message)
    if wrong:
        near = nearest(wrong, known)
        if near:
            text.append(f"Did you mean {near}?")
    return "\n".join(text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is likest, where one is like it at all; dotted names are compared by their last part too."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    by_ending = {candidate.rpartition(".")[2]: candidate for candidate in reversed(known)}
    close = difflib.get_close_matches(name.rpartition(".")[2], by_ending, n=1, cutoff=0.75)
    return by_ending[close[0]] if close else None


def _wrong_name(message: str) -> str | None:
    found = re.search(r"(?:option|Option|arguments:|key) ['\"]?-*([\w.]+)['\"]?", message)
    return found.group(1) if found else None


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file's content.

    Raises:
        UsageError: Where the file is missing, is not YAML, or is not a mapping; says which line.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        siblings = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        near = nearest(str(path), siblings)
        raise UsageError(f"there is no {path}" + (f"; did you mean {near}?" if near else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} should hold keys and values, not {type(content).__name__}")
    return content
