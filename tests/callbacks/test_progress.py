"""The bar on a terminal, and plain lines everywhere else."""

import io
import os
import pty
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN, SMALL
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from resnet18.callbacks import progress
from resnet18.callbacks.progress import EpochLines

MINE = """
from lightning.pytorch import Callback

class Mine(Callback):
    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("val/mine", 12345.678 + trainer.current_epoch)

    def on_train_batch_end(self, trainer, pl_module, *arguments) -> None:
        pl_module.log("norm", 0.25, on_step=True, on_epoch=True)
"""


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
    wider = ("--model.backbone.width", "32", "--trainer.max_epochs", "2")  # an epoch has to be longer than REDRAW_S
    status, drawn = on_a_terminal(["fit", "--config", str(CONFIG), *SMALL, *wider], tmp_path)
    assert status == 0, drawn
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    numbers = r"epoch \d/2 .* \d+/40 .*loss \d\.\d+  top-1 \d+\.\d+ %  [\d,]+ images/s"
    assert any(re.search(numbers, bar) for bar in bars)
    assert max(map(len, bars)) <= 80
    lines = [line for line in re.split(r"[\r\n]+", text) if re.match(r"epoch [12]/2  loss", line)]
    assert len(lines) == 2  # one line an epoch stays
    assert max(map(len, lines)) <= 80


def test_a_file_gets_a_line_an_epoch(lightning) -> None:
    done = lightning("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "2", "--trainer.logger", "false")
    assert done.status == 0
    assert "\x1b" not in done.out
    assert "\r" not in done.out
    assert "━" not in done.out
    assert len(re.findall(r"(?m)^epoch \d/2  ", done.out)) == 2


class Labels(LightningModule):
    def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        return None


def test_a_prediction_on_a_terminal_has_a_bar_with_images_and_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_S", 0.0)
    bar, drawn = EpochLines(), io.StringIO()
    bar.console = Console(file=drawn, force_terminal=True, width=80)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing"), False)
    loader = DataLoader(TensorDataset(torch.zeros(1200, 2)), 500)
    Trainer(accelerator="cpu", callbacks=[bar], **quiet).predict(Labels(), loader, return_predictions=False)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue()))
    for batch, images in enumerate(("500", "1,000", "1,200"), start=1):
        assert any(re.match(rf"predict .* {batch}/3 .* {images} images  [\d,]+ images/s", line) for line in lines)
    assert max(map(len, lines)) <= 80


LOSS, TOP1, TOP5 = r"loss \d\.\d{4}", r"val/top1 \d+\.\d\d %", r"val/top5 \d+\.\d\d %"
OWN = r"norm 0\.2500  val/mine 1\.235e\+04"
SPEED, TIME = r"[\d,]+ img/s", r"\d+\.\d s"


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (30, ["epoch 1/1", TOP1]),
        (44, ["epoch 1/1", LOSS, TOP1]),
        (66, ["epoch 1/1", LOSS, TOP1, r"norm 0\.2500", TIME]),
        (100, ["epoch 1/1", LOSS, f"val/{LOSS}", TOP1, OWN, TIME]),
        (130, ["epoch 1/1", LOSS, f"val/{LOSS}", TOP1, OWN, TOP5, SPEED, TIME]),
    ],
)
def test_a_line_is_cut_to_the_width_between_numbers(
    columns: int, parts: list[str], lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + MINE)
    monkeypatch.setenv("COLUMNS", str(columns))
    done = lightning(*DROPOUT_RUN, "--trainer.max_epochs", "1", "--trainer.callbacks", "mynet.Mine")
    assert done.status == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("epoch ")]
    assert re.fullmatch("  ".join(parts), line), line
    assert len(line) <= columns


def test_an_epoch_shows_its_own_measurements_only(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    done = lightning(*DROPOUT_RUN, "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2")
    assert done.status == 0, done.err
    first, second, third = [line for line in done.out.splitlines() if line.startswith("epoch ")]
    assert "val/loss" in second
    for line in (first, third):
        assert re.fullmatch(f"epoch ./3  {LOSS}  {SPEED}  {TIME}", line), line
