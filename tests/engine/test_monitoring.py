"""Watching a metric that a callback logs works; a metric that nothing logs is named."""

from pathlib import Path

from conftest import DROPOUT_NET, DROPOUT_RUN

MINE = """
from lightning.pytorch import Callback

class Mine(Callback):
    def __init__(self, monitor: str | None = None, mode: str = "min") -> None:
        self.monitor, self.mode = monitor, mode

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("val/mine", float(abs(trainer.current_epoch - 1)))  # 1, 0, 1
"""


def test_a_callbacks_metric_chooses_the_epoch_and_a_missing_one_is_named(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + MINE)
    options = (*DROPOUT_RUN, "--trainer.callbacks", "mynet.Mine", "--best.mode", "min", "--trainer.max_epochs", "3")
    done = lightning(*options, "--best.monitor", "val/mine")
    assert done.status == 0, done.err
    assert "best    val/mine 0.0000, in epoch 2 of 3" in done.out
    done = lightning(*options, "--best.monitor", "val/mien")
    assert done.status == 1
    missing = "BestCheckpoint watches val/mien, which nothing has logged in the validation; did you mean val/mine?"
    assert done.err == f"lightning fit: {missing}\n"
