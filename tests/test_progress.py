"""The bar on a terminal, and plain lines everywhere else."""

import os
import pty
import re
import sys
from pathlib import Path

from conftest import CONFIG, SMALL


def on_a_terminal(arguments: list[str], cwd: Path) -> tuple[int, str]:
    """Runs the program on a pseudo-terminal; its exit status and all that was drawn."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.environ.update(COLUMNS="80", LINES="40", TERM="xterm-256color")
        os.execv(sys.executable, [sys.executable, "-m", "resnet18", *arguments])
    drawn = b""
    try:
        while chunk := os.read(terminal, 65536):
            drawn += chunk
    except OSError:  # Linux: the other side is closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), drawn.decode()


def test_a_terminal_gets_a_bar_with_loss_top1_and_speed(tmp_path: Path) -> None:
    status, drawn = on_a_terminal(["fit", "--config", str(CONFIG), *SMALL, "--trainer.max_epochs", "3"], tmp_path)
    assert status == 0, drawn
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    numbers = r"epoch \d/3 .* \d+/60 .*loss \d\.\d+  top-1 \d+\.\d+ %  [\d,]+ images/s"
    assert any(re.search(numbers, bar) for bar in bars)
    assert max(map(len, bars)) <= 80
    lines = [line for line in re.split(r"[\r\n]+", text) if re.match(r"epoch [123]/3  train/loss", line)]
    assert len(lines) == 3  # one line an epoch stays


def test_a_file_gets_a_line_an_epoch(lightning) -> None:
    done = lightning("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "2", "--trainer.logger", "false")
    assert done.status == 0
    assert "\x1b" not in done.out
    assert "\r" not in done.out
    assert "━" not in done.out
    assert len(re.findall(r"(?m)^epoch \d/2  ", done.out)) == 2
