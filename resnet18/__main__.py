"""``lightning``, ``resnet18`` and ``python -m resnet18``: one program.

Kept light: torch and Lightning, which take seconds to import, are imported by the commands that need them.
"""

import importlib
import importlib.metadata
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from resnet18 import __version__
from resnet18.cli import COMMANDS, LIGHT, LIGHTNINGS_OWN
from resnet18.errors import RunError, UsageError, hint

HELP = """usage: {program} COMMAND [--config FILE] [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE]

{commands}

  {program} fit --config configs/digits.yaml
  {program} test --ckpt_path runs/digits/latest
  {program} COMMAND --help          its options; with --help all, every one
  {program} COMMAND --print_config  what would be run"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit status.

    2 for what is wrong with the command or the configuration, 1 for what is wrong with files, data or machine, and 128
    plus the number of the signal that ended a run.
    """
    # DDP starts the other ranks with sys.argv as it is, so it is read and never changed.
    command, *arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    script = os.path.basename(sys.argv[0])
    program = {"resnet18": script, "__main__.py": "python -m resnet18"}.get(script, "lightning")
    if command in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
        print(HELP.format(program=program, commands=commands))
        return 0
    if command == "--version":
        print(f"resnet18 {__version__}")
        return 0
    if command not in COMMANDS:
        return _unknown(program, command)
    # Scripts lack the working directory on their path, and with it a `class_path: mynet.MyNet`. Last, so that no file
    # there takes the place of a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        status = (_run_light if command in LIGHT else _run)(program, command, arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the process's end
        return 128 + signal.SIGPIPE
    return status


def _run_light(program: str, command: str, arguments: list[str]) -> int:
    try:
        module = "run_list" if command == "runs" else command  # resnet18.runs is something else
        importlib.import_module(f"resnet18.commands.{module}").run(command, arguments)
    except (UsageError, RunError) as error:
        print(f"{program} {command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"\n{program} {command}: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _run(program: str, command: str, arguments: list[str]) -> int:
    from resnet18.cli.notices import filter_notices

    filter_notices()  # before Lightning is imported
    from resnet18.cli.messages import out_of_memory
    from resnet18.engine.ranks import rank_prefix
    from resnet18.engine.stopping import Interrupted, requeue

    own = LIGHTNINGS_OWN.get(command)
    cli = importlib.import_module(f"resnet18.cli.{own}" if own else f"resnet18.commands.{command}")
    name = f"{program} {command}"
    try:
        cli.run(command, arguments)
    except UsageError as error:
        if not rank_prefix():  # the others say the same
            print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (RunError, RuntimeError) as error:
        text = error if isinstance(error, RunError) else out_of_memory(error)
        if text is None:
            raise
        print(f"{name}: {rank_prefix()}{text}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        resume = f"resume with: {program} fit --ckpt_path {shlex.quote(str(stop.saved))}"
        if not rank_prefix():
            how = resume if stop.saved else "nothing was saved"
            print(f"\n{name}: stopped by {signal.Signals(stop.signum).name}; {how}", file=sys.stderr)
        if stop.requeue:
            requeue()
        return 128 + stop.signum
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes an exit of an interrupt
        if not any(isinstance(one, KeyboardInterrupt) for one in (stop, stop.__context__)):
            raise
        print(f"\n{name}: stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _unknown(program: str, command: str) -> int:
    # lightning-sdk's script is called `lightning` too, and in one environment either may own the name: what is not ours
    # is handed on to it. Never to litserve's, which installs packages when called.
    if program == "lightning":
        for script in importlib.metadata.entry_points(group="console_scripts", name="lightning"):
            if script.value.startswith("lightning_sdk."):
                return script.load()() or 0
    advice = hint(command, COMMANDS) or "."
    print(f"{program}: unknown command {command!r}{advice} Commands: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
