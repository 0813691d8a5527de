"""The parser of commands that train nothing themselves: argparse, with errors of one line."""

import argparse
import re
from typing import Any, NoReturn

from resnet18.errors import UsageError, hint


class PlainParser(argparse.ArgumentParser):
    """Raises :class:`~resnet18.errors.UsageError` where argparse would print its usage and exit."""

    def __init__(self, command: str, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=f"lightning {command}", allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            known = [option for action in self._actions for option in action.option_strings]
            raise UsageError(f"{unknown[1]}: there is no such option{hint(unknown[1], known)}")
        raise UsageError(re.sub(r"^argument ([^:]+): ", r"\1: ", message))
