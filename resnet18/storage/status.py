"""What became of a run: running, finished, stopped, diverged or failed; read without its checkpoints."""

import time
from pathlib import Path
from typing import Any

from resnet18.storage.records import METRICS, PROVENANCE, STATUS, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUNNING, FINISHED, STOPPED, DIVERGED, FAILED = "running", "finished", "stopped", "diverged", "failed"


class Status:
    """A run's ``status.json``, kept by the process that trains it.

    The process holds a lock as long as it lives. The system releases it, after a SIGKILL too; so a run that says
    ``running`` without being locked was killed.
    """

    def __init__(self, directory: Path) -> None:
        self.path, self.began = directory / STATUS, time.time()
        before = read_status(directory)
        self.seconds = before.get("seconds", 0.0)  # of the earlier starts
        self._lock = (directory / PROVENANCE).open("r+b")
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write(RUNNING)

    def close(self, state: str, reason: str = "") -> None:
        self.seconds += time.time() - self.began
        self._write(state, reason)
        self._lock.close()

    def _write(self, state: str, reason: str = "") -> None:
        content = {"state": state, "reason": reason, "seconds": round(self.seconds, 1), "began": self.began}
        write_json(self.path, content)


def read_status(directory: Path) -> dict[str, Any]:
    """The content of a run's ``status.json``, with its true state; empty for a run without one.

    Raises:
        RunError: Where it is broken.
    """
    status = read_json(directory / STATUS)
    if status.get("state") != RUNNING:
        return status
    if _is_locked(directory / PROVENANCE):
        return {**status, "seconds": status["seconds"] + time.time() - status["began"]}
    metrics = directory / METRICS
    until = metrics.stat().st_mtime if metrics.exists() else status["began"]
    seconds = status["seconds"] + max(0.0, until - status["began"])
    return {**status, "state": STOPPED, "reason": "killed", "seconds": round(seconds, 1)}


def _is_locked(path: Path) -> bool:
    if fcntl is None or not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
