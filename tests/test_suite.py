"""The suite itself: a crash ends it."""

import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_a_worker_that_crashes_fails_the_suite(tmp_path: Path) -> None:
    (tmp_path / "test_crash.py").write_text("import os\n\ndef test_crash(): os.abort()\n\ndef test_after(): pass\n")
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    options = ("-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "--numprocesses", "2", "--dist", "loadfile")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "crashed while running 'test_crash.py::test_crash'" in done.stdout
