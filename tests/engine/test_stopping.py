"""Signals in a validation, in accumulated gradients and in an epoch cut short; and SLURM's."""

import os
import signal
from pathlib import Path

import IPython
import pytest
from conftest import DROPOUT_NET, DROPOUT_RUN
from killed_runs import differences
from lightning.pytorch import Callback
from python_runs import NET, Stripes, plain_trainer
from torch.optim import SGD

from resnet18 import Classifier
from resnet18.engine.stopping import GracefulStop, Interrupted, NotebookStop, notebook_stop
from resnet18.storage.checkpoints import read_checkpoint

SIGNAL = """
import signal
from pathlib import Path
from lightning.pytorch import Callback

class Signal(Callback):
    # Raised once, at an epoch's batch of training or validation.
    def __init__(self, epoch: int, batch: int, validation: bool = False, signum: int = 15, times: int = 1) -> None:
        self.where, self.validation, self.signum, self.times = (epoch, batch), validation, signum, times

    def hit(self, trainer, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.where and not Path("signalled").exists():
            Path("signalled").touch()
            for _ in range(self.times):
                signal.raise_signal(self.signum)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not self.validation:
            self.hit(trainer, batch_idx)

    def on_test_start(self, trainer, *arguments) -> None:
        signal.raise_signal(self.signum)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if self.validation:
            self.hit(trainer, batch_idx)
"""
RUN = (*DROPOUT_RUN, "--trainer.max_epochs", "3")
HALVES = ["--trainer.val_check_interval", "0.5"]
CUTS = {
    "in a validation": ([], {"epoch": 1, "batch": 2, "validation": True}),
    "in the last validation": ([], {"epoch": 2, "batch": 4, "validation": True}),
    "in a validation in mid-epoch": (
        ["--trainer.val_check_interval", "0.5"],
        {"epoch": 1, "batch": 1, "validation": True},
    ),
    "before a validation in mid-epoch": (["--trainer.val_check_interval", "0.5"], {"epoch": 1, "batch": 9}),
    "in an epoch's last batch": ([], {"epoch": 0, "batch": 19}),
    "where nothing validates": (["--trainer.limit_val_batches", "0"], {"epoch": 0, "batch": 19}),
    "in a sum of gradients": (["--trainer.accumulate_grad_batches", "3"], {"epoch": 1, "batch": 9}),
    "in an epoch of one batch": (["--trainer.limit_train_batches", "1"], {"epoch": 1, "batch": 0}),
    "beside a schedule that watches": (
        [
            "--model.schedule",
            "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "--model.schedule.patience",
            "0",
            "--model.schedule.threshold",
            "0.5",
        ],
        {"epoch": 1, "batch": 19},
    ),
}


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + SIGNAL)


def signalled(**where: object) -> list[str]:
    options = [f"--trainer.callbacks.{name}={str(value).lower()}" for name, value in where.items()]
    return ["--trainer.callbacks+", "mynet.Signal", *options]


@pytest.mark.parametrize("case", CUTS)
def test_a_run_stopped_anywhere_ends_as_the_unbroken_one(case: str, lightning, tmp_path: Path) -> None:
    options, where = CUTS[case]
    # The unbroken run has the callback too, waiting for an epoch that never comes.
    done = lightning(*RUN, *options, "--run_dir", "whole", *signalled(**{**where, "epoch": 99}))
    assert done.status == 0, done.err
    done = lightning(*RUN, *options, "--run_dir", "broken", *signalled(**where))
    assert done.status == 143, done.err
    assert "stopped by SIGTERM; resume with: lightning fit --ckpt_path broken/checkpoints/last.ckpt" in done.err
    reached = read_checkpoint(tmp_path / "broken" / "checkpoints" / "last.ckpt")["global_step"]
    done = lightning("fit", "--ckpt_path", "broken")
    assert done.status == 0, done.err
    assert "finished" not in done.out
    assert reached <= read_checkpoint(tmp_path / "broken" / "checkpoints" / "last.ckpt")["global_step"]
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_a_second_signal_ends_it_at_once_without_saving(lightning, tmp_path: Path) -> None:
    done = lightning(*RUN, "--run_dir", "run", *signalled(epoch=0, batch=4, signum=2, times=2))
    assert done.status == 130
    assert "stopped by SIGINT; nothing was saved" in done.err
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_without_checkpoints_there_is_nothing_to_resume(lightning) -> None:
    done = lightning(*RUN, "--run_dir", "run", "--trainer.enable_checkpointing", "false", *signalled(epoch=0, batch=4))
    assert done.status == 143
    assert "stopped by SIGTERM; nothing was saved" in done.err


def test_an_interrupt_outside_training_is_one_line(lightning) -> None:
    assert lightning(*RUN, "--run_dir", "run", *signalled(epoch=99, batch=0, signum=2)).status == 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        done = lightning("test", "--ckpt_path", "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.status, done.err) == (130, "\nlightning test: stopped by SIGINT\n")


@pytest.mark.parametrize("refused", [False, True])
def test_slurm_is_asked_to_queue_the_job_again(
    refused: bool, lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{"echo Access denied >&2; exit 1" if refused else ""}\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "42", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_NODEID", "0")
    before = signal.getsignal(signal.SIGUSR1)
    done = lightning(*RUN, "--run_dir", "run", *signalled(epoch=1, batch=3, signum=int(signal.SIGUSR1)))
    assert done.status == 128 + signal.SIGUSR1, done.err
    assert "stopped by SIGUSR1; resume with: lightning fit --ckpt_path run/checkpoints/last.ckpt" in done.err
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    assert ("job 42 is not queued again: Access denied" if refused else "job 42 is queued again") in done.err
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 24
    assert not list((tmp_path / "run").glob("hpc*"))
    assert signal.getsignal(signal.SIGUSR1) == before


class Interrupt(Callback):
    def __init__(self, times: int = 1) -> None:
        self.times = times

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 3:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def test_in_ipython_an_interrupt_ends_a_plain_trainer_as_if_it_were_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert notebook_stop(plain_trainer()) == []
    monkeypatch.setattr(IPython, "get_ipython", object)
    assert [type(one) for one in notebook_stop(plain_trainer())] == [NotebookStop]
    assert notebook_stop(plain_trainer(callbacks=[GracefulStop()])) == []
    handler, data = signal.getsignal(signal.SIGINT), Stripes()
    model = Classifier.for_data(data, NET, SGD)
    trainer = plain_trainer(max_epochs=9, callbacks=[Interrupt()])
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 4
    assert trainer.state.finished
    assert "val/top1" in trainer.callback_metrics  # of the weights that it ends with
    assert not model.in_trainer
    assert signal.getsignal(signal.SIGINT) is handler
    said = "interrupted: the training ends after step 4, in epoch 2; the model keeps its weights\n"
    assert capsys.readouterr().out == said
    with pytest.raises(Interrupted):
        plain_trainer(max_epochs=9, callbacks=[Interrupt(2)]).fit(model, datamodule=data)
    assert signal.getsignal(signal.SIGINT) is handler
