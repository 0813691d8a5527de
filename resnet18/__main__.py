"""``lightning``, ``resnet18`` and ``python -m resnet18``: one program.

Kept light: torch and Lightning, which take seconds to import, are imported by the commands that need them.
"""

import difflib
import importlib
import importlib.metadata
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from resnet18 import __version__
from resnet18.cli import COMMANDS, LIGHTNINGS_OWN
from resnet18.errors import RunError, UsageError


def help_text(program: str) -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"""usage: {program} COMMAND [--config FILE] [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE]

{commands}

  {program} fit --config configs/digits.yaml
  {program} test --ckpt_path runs/digits/latest
  {program} COMMAND --help          its options; with --help all, every one
  {program} COMMAND --print_config  what would be run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit status.

    2 for what is wrong with the command or the configuration, 1 for what is wrong with files, data or machine, and 128
    plus the number of the signal that ended a run.
    """
    # DDP starts the other ranks with sys.argv as it is, so it is read and never changed.
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    script = os.path.basename(sys.argv[0])
    program = {"resnet18": script, "__main__.py": "python -m resnet18"}.get(script, "lightning")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text(program), end="")
        return 0
    if arguments[0] == "--version":
        print(f"resnet18 {__version__}")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        return _unknown(program, command)
    # Scripts lack the working directory on their path, and with it a `class_path: mynet.MyNet`. Last, so that no file
    # there takes the place of a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return _run(program, command, arguments[1:])


def _run(program: str, command: str, arguments: list[str]) -> int:
    from resnet18.cli.notices import filter_notices

    filter_notices()
    own = command not in LIGHTNINGS_OWN
    cli = importlib.import_module(f"resnet18.commands.{command}" if own else "resnet18.cli.program")
    interrupt = importlib.import_module("resnet18.engine.stopping")
    ranks = importlib.import_module("resnet18.engine.ranks")
    try:
        cli.run(command, arguments)
    except UsageError as error:
        if not ranks.rank_prefix():  # the others say the same
            print(f"{program} {command}: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"{program} {command}: {ranks.rank_prefix()}{error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if (full := importlib.import_module("resnet18.cli.messages").out_of_memory(error)) is None:
            raise
        print(f"{program} {command}: {ranks.rank_prefix()}{full}", file=sys.stderr)
        return 1
    except interrupt.Interrupted as stop:
        name = signal.Signals(stop.signum).name
        how = f"resume with: {program} fit --ckpt_path {shlex.quote(str(stop.saved))}"
        how = how if stop.saved else "nothing was saved"
        if not ranks.rank_prefix():
            print(f"\n{program} {command}: stopped by {name}; {how}", file=sys.stderr)
        if stop.requeue:
            importlib.import_module("resnet18.engine.stopping").requeue()
        return 128 + stop.signum
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes an exit of the one
        if not any(isinstance(one, KeyboardInterrupt) for one in (stop, stop.__context__)):
            raise
        print(f"\n{program} {command}: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _unknown(program: str, command: str) -> int:
    # lightning-sdk's own script is called `lightning` too; in one environment either may own the name. What is not ours
    # goes on to it. Never to litserve's, which installs packages when called.
    if program == "lightning":
        for script in importlib.metadata.entry_points(group="console_scripts", name="lightning"):
            if script.value.startswith("lightning_sdk."):
                return script.load()() or 0
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    print(f"{program}: unknown command {command!r}{hint} Commands: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
