"""Trainings as child processes, one after the other: begun, resumed after a kill, tested, and left out once done."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from resnet18.errors import RunError, UsageError, counted, written
from resnet18.storage.overview import Overview, overview
from resnet18.storage.records import CONFIG, FOLDER, LAST, PREVIOUS, new_run_id
from resnet18.storage.status import DIVERGED, FINISHED, RUNNING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SHOWN = 8  # last lines of a child that failed
CAN_TEST = "\ntest    lightning test "  # in what a run says at its end, if its source has test images


def train(group: Path, name: str, options: Sequence[str], test: bool = True) -> Overview:
    """Trains and tests the run ``group/name``, as far as that has not been done, and prints a line on it.

    What was stopped or killed is resumed from its checkpoint, and begun anew if it had none; what is killed meanwhile,
    as for want of memory, is so once. A run that diverged is left as it is: it would again. What the children print
    goes to ``group/name.log``, locked by each of them: an earlier start's is waited for.

    Returns:
        The run, finished or diverged; without test scores if its source has no test images.

    Raises:
        RunError: For a run that is being trained by another process, and if a child fails, with its last lines.
        UsageError: If the child finds the options, which follow ``lightning fit``, wrong.
        SystemExit: After a signal, which the child has been sent to save its run.
    """
    directory, log, killed = group / name, group / f"{name}.log", False
    group.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        _lock(out, name)
        state = _state(directory)
        if state == RUNNING:
            raise RunError(f"{directory} is being trained by another process")
        while state not in (FINISHED, DIVERGED):
            begun = any((directory / FOLDER / file).exists() for file in (LAST, PREVIOUS))
            if not begun and directory.exists():
                shutil.rmtree(directory)  # without a checkpoint there is nothing to resume from
            where = ["--ckpt_path", str(directory)] if begun else [*options, "--run_dir", str(directory)]
            status, state = _run(["fit", *where], out, name, new=not begun), _state(directory)
            if not status:
                break
            if state != DIVERGED and (status > 0 or killed):
                raise _failure(name, status, log)
            killed = True
        run = overview(directory)
        if (
            test
            and run.state == FINISHED
            and not run.test
            and CAN_TEST in (log.read_text(errors="replace") or CAN_TEST)
        ):
            if status := _run(["test", "--ckpt_path", str(directory)], out, name):
                raise _failure(name, status, log)
            run = overview(directory)
    best = "" if run.best is None else f"{run.monitor} {written(run.monitor, run.best)}"
    scores = [f"{metric} {written(metric, value)}" for metric, value in run.test.items()]
    minutes = "" if run.minutes is None else f"{run.minutes:.1f} min"
    parts = [name, run.state, counted(run.epochs, "epoch"), best, *(scores or ["not tested"] * test), minutes]
    print("  ".join(part for part in parts if part), flush=True)
    return run


def _lock(log: IO[bytes], name: str) -> None:
    # A child has the log as its stdout, and so keeps the lock when this process is killed.
    if fcntl is None:
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"{name} is still being trained, by an earlier start; waiting for it", flush=True)
        fcntl.flock(log, fcntl.LOCK_EX)


def _state(directory: Path) -> str | None:
    return overview(directory).state if (directory / CONFIG).exists() else None


def _failure(name: str, status: int, log: Path) -> RunError | UsageError:
    """The error for a child that failed: its last lines, and where all of them are."""
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    said = log.read_text(errors="replace").rstrip().rpartition("\n$ ")[2]  # after the last command
    last = said.splitlines()[1:][-SHOWN:]
    text = "\n".join([f"{name} failed ({how}); the end of {log}:", *(f"  {one}" for one in last)])
    return UsageError(text) if status == 2 else RunError(text)


def _run(arguments: Sequence[str], log: IO[bytes], name: str, new: bool = False) -> int:
    """Runs the program to its end; returns its exit status."""
    from rich.console import Console
    from rich.text import Text

    command = [sys.executable, "-m", "resnet18", *arguments]
    log.write(f"\n$ {shlex.join(command)}\n".encode())
    log.flush()
    environment = {"WANDB_RUN_GROUP": Path(log.name).parent.as_posix().removeprefix("runs/"), **os.environ}
    if new:  # W&B's project may have a seed-1 of many groups. A resumed run keeps its id.
        environment["WANDB_RUN_ID"] = new_run_id()
    # In a session of its own: Ctrl-C reaches it once, from here. A second one would end it without a checkpoint.
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    with _passed_on(child) as received, Console().status(Text(name)) as shown:
        while child.poll() is None:
            try:
                child.wait(0.5)
            except subprocess.TimeoutExpired:
                shown.update(Text(f"{name}  {_last_line(Path(log.name))}"))
    if received:
        print(f"\nstopped by {received[0].name}; the same command continues from here", file=sys.stderr)
        raise SystemExit(128 + received[0])
    return child.returncode


@contextmanager
def _passed_on(child: subprocess.Popen[bytes]) -> Iterator[list[signal.Signals]]:
    """Sends the child the signals that this process receives meanwhile; gives a list of them."""
    received = list[signal.Signals]()

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(signum))
        child.send_signal(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handled = [one for one in signals if signal.getsignal(one) != signal.SIG_IGN]  # as nohup leaves SIGHUP
    before = {one: signal.signal(one, pass_on) for one in handled}
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
