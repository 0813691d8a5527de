"""A loss that is not finite, through the real program: the message, and what is kept."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN, start
from killed_runs import differences

import resnet18
from resnet18 import ImageTensors
from resnet18.data.feeds.order import Order, Shard
from resnet18.storage.checkpoints import read_checkpoint

SPOIL = """
import signal
from lightning.pytorch import Callback

class Spoil(Callback):
    # Makes the loss of a batch, or a gradient, what it should not be.
    def __init__(self, batch: int, value: str, gradient: bool = False) -> None:
        self.batch, self.value, self.gradient = batch, float(value), gradient

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 0 and batch_idx == self.batch and not self.gradient:
            pl_module.backbone.conv.register_forward_hook(lambda module, inputs, output: output * self.value)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.gradient and trainer.global_step == self.batch:
            pl_module.backbone.fc.bias.grad.fill_(self.value)

class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *arguments) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)
"""
RUN = (*DROPOUT_RUN, "--trainer.max_epochs", "2")


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + SPOIL)


def diverging(**how: object) -> list[str]:
    options = [f"--trainer.callbacks.{name}={str(value).lower()}" for name, value in how.items()]
    return ["--trainer.callbacks", "mynet.Spoil", *options]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_it_reports_where_and_keeps_the_step_before(value: str, lightning, tmp_path: Path) -> None:
    done = lightning(*RUN, "--run_dir", "run", *diverging(batch=13, value=value))
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "the loss is nan in step 14 (epoch 1), at a learning rate of 0.0" in done.err
    assert "the weights after step 13 are kept in run/checkpoints/last.ckpt" in done.err
    report = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert (report["step"], report["epoch"], report["rank"]) == (14, 1, 0)
    data = resnet18.Digits()
    data.setup("fit")
    assert isinstance(data.train, ImageTensors)
    assert data.train.rows is not None
    shown = Order(len(data.train), 64, 1).epoch(0)[13 * 64 : 14 * 64]
    assert report["images"] == data.train.rows[shown].tolist()
    assert ", ".join(map(str, report["images"][:8])) + " and 56 more (all in run/diverged.json)" in done.err
    # What is kept is what a run has that was stopped there: the bad batch left no trace in the norm statistics either.
    done = lightning(
        *RUN, "--run_dir", "stopped", "--trainer.callbacks", "mynet.Stop", "--trainer.callbacks.step", "13"
    )
    assert done.status == 143, done.err
    kept, stopped = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("run", "stopped"))
    assert kept["global_step"] == stopped["global_step"] == 13
    for name, tensor in stopped["state_dict"].items():
        assert torch.equal(kept["state_dict"][name], tensor), name
    assert kept["lr_schedulers"] == stopped["lr_schedulers"]


def test_a_buffer_that_is_replaced_in_every_step_is_kept_too(lightning, tmp_path: Path) -> None:
    makes = "self.drop = nn.Dropout(0.3)\n        self.register_buffer('seen', torch.zeros(()))"
    takes = "self.seen = self.seen + x.mean().isfinite() * self.training\n        return self.fc("
    network = DROPOUT_NET.replace("self.drop = nn.Dropout(0.3)", makes).replace("return self.fc(", takes)
    (tmp_path / "mynet.py").write_text(network + SPOIL)
    assert lightning(*RUN, "--run_dir", "run", *diverging(batch=13, value="nan")).status == 1
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]["backbone.seen"] == 13


def test_it_resumes_exactly_from_there(lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cured = SPOIL.replace("output * self.value", "output")
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + cured)
    assert lightning(*RUN, "--run_dir", "whole", *diverging(batch=13, value="nan")).status == 0
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + SPOIL)
    monkeypatch.delitem(sys.modules, "mynet")
    assert lightning(*RUN, "--run_dir", "run", *diverging(batch=13, value="nan")).status == 1
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + cured)
    monkeypatch.delitem(sys.modules, "mynet")
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert differences(tmp_path / "whole", tmp_path / "run") == []


def test_all_images_of_accumulated_gradients_are_named(lightning, tmp_path: Path) -> None:
    done = lightning(
        *RUN, "--run_dir", "run", *diverging(batch=4, value="nan"), "--trainer.accumulate_grad_batches", "3"
    )
    assert done.status == 1
    assert "the loss is nan in step 2 (epoch 1)" in done.err
    assert "the weights after step 1 are kept" in done.err
    assert len(json.loads((tmp_path / "run" / "diverged.json").read_text())["images"]) == 3 * 64
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == 1
    assert kept["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 3
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


def test_weights_that_a_gradient_makes_not_finite_are_not_kept(lightning, tmp_path: Path) -> None:
    done = lightning(
        *RUN, "--run_dir", "run", "--last.every_n_steps", "7", *diverging(batch=9, value="nan", gradient=True)
    )
    assert done.status == 1
    assert "the loss is nan in step 11" in done.err
    assert "the step before has made the weights not finite, and they were not saved" in done.err
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == 7


def test_without_checkpoints_it_still_reports_where(lightning, tmp_path: Path) -> None:
    done = lightning(
        *RUN, "--run_dir", "run", *diverging(batch=3, value="nan"), "--trainer.enable_checkpointing", "false"
    )
    assert done.status == 1
    assert "the loss is nan in step 4" in done.err
    assert "kept" not in done.err


def test_the_rank_with_the_bad_loss_is_named_and_all_end(tmp_path: Path) -> None:
    on_one = SPOIL.replace("and batch_idx ==", "and trainer.global_rank == 1 and batch_idx ==")
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + on_one)
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    process = start([*RUN, *two, "--run_dir", "run", *diverging(batch=7, value="nan")], tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("the loss is") == 1
    assert "the loss is not finite on rank 1 in step 8 (epoch 1)" in err
    assert "the weights after step 7 are kept in run/checkpoints/last.ckpt" in err
    assert "Traceback" not in err
    report = json.loads((tmp_path / "run" / "diverged.json").read_text())
    data = resnet18.Digits()
    data.setup("fit")
    assert isinstance(data.train, ImageTensors)
    assert data.train.rows is not None
    shown = Order(len(data.train), 64, 1, Shard(rank=1, world_size=2)).epoch(0)[7 * 64 : 8 * 64]
    assert report["images"] == data.train.rows[shown].tolist()
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
