"""Trainings as child processes, one after the other: begun, resumed after a kill, tested, and left out once done."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from resnet18.errors import RunError, UsageError, counted, written
from resnet18.storage.overview import Overview, overview
from resnet18.storage.records import CONFIG, FOLDER, LAST, PREVIOUS, new_run_id
from resnet18.storage.status import DIVERGED, FINISHED, RUNNING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SHOWN = 8  # last lines of a child that failed
CAN_TEST = "test    lightning test "  # in what a run says at its end, if its source has test images


class Interrupted(SystemExit):
    """A signal ended the child, and the parent is to end as well; the exit status is the shell's, 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.name = signal.Signals(signum).name


def train(
    group: Path, name: str, options: Sequence[str], environment: Mapping[str, str] | None = None, test: bool = True
) -> Overview:
    """Trains and tests the run ``group/name``, as far as that has not been done, and prints a line on it.

    What was stopped or killed is resumed from its checkpoint, and begun anew if it had none. A run that diverged is
    left as it is: it would again. What the children print goes to ``group/name.log``.

    Args:
        options: What follows ``lightning fit``.
        environment: Variables for the children beside this process's own.
        test: Whether to test; not where runs are compared to choose among them.

    Returns:
        The run, finished or diverged; without test scores if its source has no test images.

    Raises:
        RunError: For a run that is being trained by another process, and if a child fails, with its last lines.
        UsageError: If the child finds the options wrong.
        Interrupted: After SIGINT or SIGTERM, which the child has been sent to save its run.
    """
    directory, log = group / name, group / f"{name}.log"
    state = overview(directory).state if (directory / CONFIG).exists() else None
    if state == RUNNING:
        raise RunError(f"{directory} is being trained by another process")
    if state not in (FINISHED, DIVERGED):
        begun = any((directory / FOLDER / file).exists() for file in (LAST, PREVIOUS))
        if not begun and directory.exists() and not directory.is_symlink():
            shutil.rmtree(directory)  # without a checkpoint there is nothing to go on from
        where = ["--ckpt_path", str(directory)] if begun else [*options, "--run_dir", str(directory)]
        # W&B's project may have a seed-1 of many groups. A resumed run keeps its id.
        new = {} if begun else {"WANDB_RUN_ID": new_run_id()}
        status = _run(["fit", *where], log, name, {**(environment or {}), **new})
        if status and not ((directory / CONFIG).exists() and overview(directory).state == DIVERGED):
            raise failure(name, status, log)
    run = overview(directory)
    if test and run.state == FINISHED and not run.test and has_test(log):
        if status := _run(["test", "--ckpt_path", str(directory)], log, name, environment):
            raise failure(name, status, log)
        run = overview(directory)
    print(line(name, run, test), flush=True)
    return run


def wait_for_orphan(group: Path, name: str) -> None:
    """Waits until the child of a process that was killed has trained the run ``group/name`` to its end."""
    log = group / f"{name}.log"
    if fcntl is None or not log.exists():
        return
    with log.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{name} is still being trained, by an earlier start; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)


def has_test(log: Path) -> bool:
    """Whether the run of a log can be tested."""
    text = log.read_text(errors="replace") if log.exists() else CAN_TEST
    return any(one.startswith(CAN_TEST) for one in text.splitlines())


def line(name: str, run: Overview, test: bool = True) -> str:
    """A run in a line."""
    best = "" if run.best is None else f"{run.monitor} {written(run.monitor, run.best)}"
    scores = [f"{metric} {written(metric, value)}" for metric, value in run.test.items()]
    minutes = "" if run.minutes is None else f"{run.minutes:.1f} min"
    parts = [name, run.state, counted(run.epochs, "epoch"), best, *(scores or ["not tested"] * test), minutes]
    return "  ".join(part for part in parts if part)


def failure(name: str, status: int, log: Path) -> RunError | UsageError:
    """The error for a child that failed: its last lines, and where all of them are."""
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    said = log.read_text(errors="replace").rstrip().rpartition("\n$ ")[2]  # after the last command
    last = said.splitlines()[1:][-SHOWN:]
    text = "\n".join([f"{name} failed ({how}); the end of {log}:", *(f"  {one}" for one in last)])
    return UsageError(text) if status == 2 else RunError(text)


def _run(arguments: Sequence[str], log: Path, name: str, environment: Mapping[str, str] | None) -> int:
    """Runs the program to its end; returns its exit status."""
    from rich.console import Console
    from rich.text import Text

    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "resnet18", *arguments]
    with log.open("ab") as out, Console().status(Text(name)) as shown:
        if fcntl is not None:
            fcntl.flock(out, fcntl.LOCK_EX)  # the child's stdout, so it keeps the lock when this process is killed
        out.write(f"\n$ {shlex.join(command)}\n".encode())
        out.flush()
        # In a session of its own: Ctrl-C reaches it once, from here. A second one would end it without a checkpoint.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        with _passed_on(child) as received:
            while child.poll() is None:
                try:
                    child.wait(0.5)
                except subprocess.TimeoutExpired:
                    shown.update(Text(f"{name}  {_last_line(log)}"))
    if received:
        raise Interrupted(received[0])
    return child.returncode


@contextmanager
def _passed_on(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Sends the child the signals that this process receives meanwhile; gives a list of them."""
    received = list[int]()

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        child.send_signal(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kept = [one for one in signals if not (one.name == "SIGHUP" and signal.getsignal(one) == signal.SIG_IGN)]  # nohup
    before = {one: signal.signal(one, pass_on) for one in kept}
    try:
        yield received
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 500))
        lines = file.read().decode(errors="replace").split("\n")
    return lines[-2][:60] if len(lines) > 1 else ""
