"""``fit`` as a function: a run is trained in this process, and comes back as an object."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet18.cli.notices import filter_notices
from resnet18.errors import RunError, UsageError

if TYPE_CHECKING:
    from resnet18.runs import Run


def fit(arguments: "str | Sequence[object]") -> "Run":
    """Trains as ``lightning fit`` does, and returns the run; also after an interrupt, which stops it with a checkpoint.

        run = fit("--config configs/digits.yaml --trainer.max_epochs 3")

    Args:
        arguments: A command line, or its parts.

    Raises:
        UsageError: For what is wrong with the options or the configuration.
        RunError: For what is wrong with files, data or machine.
    """
    filter_notices()  # before Lightning is imported
    from resnet18.cli.fitting import prepared
    from resnet18.cli.messages import out_of_memory
    from resnet18.engine.loops import is_dry_run
    from resnet18.engine.stopping import Interrupted
    from resnet18.runs import load_run

    words = shlex.split(arguments) if isinstance(arguments, str) else [str(one) for one in arguments]
    if os.getcwd() not in sys.path:  # as in __main__
        sys.path.append(os.getcwd())
    program = None
    try:
        program = prepared(words)
        if program.trainer.world_size > 1 and hasattr(sys, "ps1"):  # its processes would run the kernel's own command
            raise UsageError(
                "trainer.devices: fit() trains on one device here; in a terminal `lightning fit` takes more"
            )
        program.start()
    except RuntimeError as error:
        if (text := out_of_memory(error)) is None:
            raise
        raise RunError(text) from None
    except Interrupted as stop:
        how = f"resume with: fit({f'--ckpt_path {shlex.quote(stop.saved)}'!r})" if stop.saved else "nothing was saved"
        print(f"\nstopped by {signal.Signals(stop.signum).name}; {how}", file=sys.stderr)
    except SystemExit as stop:  # Lightning makes one of an interrupt
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise UsageError("--help and --print_config train nothing, so there is no run") from None
    assert program is not None
    if program.directory is None or is_dry_run(program.trainer):
        raise RunError("trainer.fast_dev_run keeps nothing, so there is no run")
    return load_run(program.directory)
