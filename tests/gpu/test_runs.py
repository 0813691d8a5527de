"""Whole runs through the real program, on the CPU and on a GPU."""

import csv
import json
import math
import re
import signal
import sys
from pathlib import Path

import killed_runs
import pytest
import torch
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN, Done, picture_folder, start
from devices import GPU, everywhere, on_gpu, trainer_on
from killed_runs import Way, differences, kill, prepare, resume_arguments

from resnet18 import ImageTensors, load_run
from resnet18.storage.checkpoints import read_checkpoint

CALLBACKS = """
import os
import signal
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

class Signal(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 27 and not os.path.exists("signalled"):
            open("signalled", "w").close()
            signal.raise_signal(signal.SIGTERM)

class Spoil(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 13 and not os.path.exists("cured"):
            pl_module.backbone.conv.register_forward_hook(lambda module, inputs, output: output * float("nan"))

class Backend(Callback):
    def on_train_start(self, trainer, pl_module) -> None:
        open("backend", "w").write(torch.distributed.get_backend())

class Scaled(MixedPrecision):
    # Its first gradients are infinite: the scale comes down by half a step.
    def __init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__("16-mixed", device, torch.amp.GradScaler(device, init_scale=2.0**40))

class Greedy(Net):
    # Wants a petabyte to train.
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.empty(1 << 50, device=x.device)[0]) if self.training else super().forward(x)
"""
RUN = (*DROPOUT_RUN, "--trainer.max_epochs", "2", "--run_dir", "run")
PLAIN, ALL = Way("32-true", 0.0, "resident"), Way("32-true", 0.9, "streamed")


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + CALLBACKS.replace("Net)", "WithDropout)"))


def last(run: Path) -> dict:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


def quietly(done: Done) -> None:
    """Looks whether a command ended well, and had nothing to say but that a CPU emulates bf16."""
    assert done.status == 0, done.err
    assert [line for line in done.err.splitlines() if not line.startswith("precision bf16")] == []


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        *(("cpu", precision) for precision in ("32-true", "64-true")),
        *(
            pytest.param(GPU, precision, marks=pytest.mark.gpu, id=f"cuda-{precision}")
            for precision in ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
            if (GPU, precision) != ("cpu", "16-mixed")  # which Lightning does not have there
        ),
    ],
)
def test_a_run_trains_is_scored_predicts_and_loads_on_the_cpu(
    device: str, precision: str, lightning, tmp_path: Path
) -> None:
    epochs = ("--trainer.max_epochs", "4")
    if device == "cpu":
        epochs = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--model.backbone.width", "8")
    recipe = ("--model.optimizer", "SGD", "--model.optimizer.lr", "0.05", "--model.ema", "0.9")
    on = (*trainer_on(device), "--trainer.precision", precision)
    options = (*recipe, *epochs, "--trainer.logger", "false", "--run_dir", "run")
    done = lightning("fit", "--config", CONFIG, *on, *options)
    quietly(done)
    assert f"on {device}, {precision}\n" in done.out
    done = lightning("test", "--ckpt_path", "run")
    quietly(done)
    top1 = re.search(r"test/top1 ([\d.]+) %", done.out)
    assert top1
    assert device == "cpu" or float(top1[1]) > 50  # chance is 10
    done = lightning("predict", "--ckpt_path", "run", "--output", "out.csv")
    quietly(done)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) == 359
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    model = load_run("run").model
    assert model.device.type == "cpu"
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    # What the device found likeliest, the CPU does too, but for images where two classes are a rounding apart.
    data = load_run("run").data
    data.setup("test")
    assert isinstance(data.test, ImageTensors)
    with torch.no_grad():
        logits = model.eval()(data.test.images.permute(0, 3, 1, 2)).float()
    agree = [str(label) == row["class"] for label, row in zip(logits.argmax(1).tolist(), rows, strict=True)]
    assert sum(agree) > 0.95 * len(agree)


@everywhere
def test_the_first_infinite_gradients_of_float16_are_no_divergence(device: str, lightning, tmp_path: Path) -> None:
    (tmp_path / "scaled.yaml").write_text("trainer: {plugins: [{class_path: mynet.Scaled}]}\n")
    done = lightning(*RUN, *trainer_on(device), "--config", "scaled.yaml", "--model.ema", "0.9")
    quietly(done)
    kept = last(tmp_path / "run")
    assert kept["global_step"] == 40  # those that the scaler left out are counted
    assert 1 <= kept["Scaled"]["scale"] < 2.0**40
    assert kept["lr_schedulers"][0]["last_epoch"] == 40
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
    started = kept["optimizer_states"][0]["state"]
    assert all(state["momentum_buffer"].isfinite().all() for state in started.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    prepare(place)
    return place


@on_gpu
@pytest.mark.parametrize(
    ("way", "moment", "step"), [(PLAIN, "step", 40), (ALL, "validation", 30), (PLAIN, "writing", 50)]
)
def test_a_killed_run_ends_as_the_unbroken_one(
    device: str, way: Way, moment: str, step: int, lightning, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    options = (*way.options(), *trainer_on(device))
    if not (place / way.name).exists():
        done = lightning(*options, "--run_dir", way.name)
        assert done.status == 0, done.err
    process = killed_runs.start([*options, "--run_dir", f"killed in {moment}"], place, SLOWLY="1")
    assert kill(process, place, moment, step, 0.06 if moment == "writing" else 0.01) is not None
    monkeypatch.delitem(sys.modules, "killed", raising=False)
    done = lightning(*resume_arguments(place / f"killed in {moment}"))
    assert done.status == 0, done.err
    assert differences(place / way.name, place / f"killed in {moment}") == []


@everywhere
def test_a_run_that_a_signal_stopped_ends_as_the_unbroken_one(device: str, lightning, tmp_path: Path) -> None:
    options = (*RUN, *trainer_on(device), "--model.mixup", "0.2", "--trainer.callbacks", "mynet.Signal")
    (tmp_path / "signalled").touch()
    assert lightning(*options, "--run_dir", "whole").status == 0
    (tmp_path / "signalled").unlink()
    done = lightning(*options)
    assert done.status == 128 + signal.SIGTERM, done.err
    assert last(tmp_path / "run")["global_step"] == 28
    done = lightning("fit", "--ckpt_path", "run")
    quietly(done)
    assert differences(tmp_path / "whole", tmp_path / "run") == []


@everywhere
def test_a_loss_that_is_not_finite_ends_the_run_before_its_step(device: str, lightning, tmp_path: Path) -> None:
    options = (*RUN, *trainer_on(device), "--trainer.callbacks", "mynet.Spoil", "--model.ema", "0.9")
    done = lightning(*options)
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "the loss is nan in step 14 (epoch 1)" in done.err
    assert "the weights after step 13 are kept in run/checkpoints/last.ckpt" in done.err
    assert all(tensor.isfinite().all() for tensor in last(tmp_path / "run")["state_dict"].values())
    (tmp_path / "cured").touch()
    assert lightning("fit", "--ckpt_path", "run").status == 0
    assert lightning(*options, "--run_dir", "whole").status == 0
    assert differences(tmp_path / "whole", tmp_path / "run") == []


@everywhere
def test_memory_that_is_not_enough_costs_a_line(device: str, lightning) -> None:
    done = lightning(*RUN, *trainer_on(device), "--model.backbone", "mynet.Greedy")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "lightning fit: " in done.err
    assert {"cuda": "CUDA out of memory", "cpu": "can't allocate memory"}[device] in done.err
    assert "A smaller --data.batch_size needs less" in done.err


@on_gpu
def test_one_process_of_ddp_trains_as_one_without(device: str, lightning, tmp_path: Path) -> None:
    assert lightning(*RUN, *trainer_on(device), "--run_dir", "whole").status == 0
    ddp = ("--trainer.strategy", "ddp", "--trainer.callbacks", "mynet.Backend")
    shared = ("--trainer.sync_batchnorm", "true") if device == "cuda" else ()
    process = start([*RUN, *trainer_on(device), *ddp, *shared], tmp_path)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert (tmp_path / "backend").read_text() == {"cuda": "nccl", "cpu": "gloo"}[device]
    one, other = (last(tmp_path / run)["state_dict"] for run in ("whole", "run"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@on_gpu
def test_a_run_moves_between_devices(device: str, lightning, tmp_path: Path) -> None:
    for number, (first, second) in enumerate(((device, "cpu"), ("cpu", device))):
        options = (*DROPOUT_RUN, *trainer_on(first), "--trainer.max_epochs", "1", "--model.ema", "0.9")
        assert lightning(*options, "--run_dir", f"run{number}").status == 0
        done = lightning("fit", "--ckpt_path", f"run{number}", *trainer_on(second), "--trainer.max_epochs", "2")
        assert done.status == 0, done.err
        assert last(tmp_path / f"run{number}")["global_step"] == 40
        for command in ("validate", "test"):
            assert lightning(command, "--ckpt_path", f"run{number}", *trainer_on(first)).status == 0


@on_gpu
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_it_is_checked_and_measured(device: str, precision: str, lightning, tmp_path: Path) -> None:
    picture_folder(tmp_path / "photos" / "train", "abcde", each=12)
    images = ("--data", "ImageFolder", "--data.root", "photos", "--data.image_size", "16", "--data.batch_size", "4")
    (tmp_path / "mynet.py").write_text(DROPOUT_NET.replace("Conv2d(1,", "Conv2d(3,"))
    recipe = ("--model.backbone", "mynet.WithDropout", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.01")
    options = (*recipe, *images, *trainer_on(device), "--trainer.precision", precision)
    for feed in ("resident", "streamed"):
        fed = ("--data.feed", feed, "--data.num_workers", "2" if feed == "streamed" else "0")
        done = lightning("check", *options, *fed)
        assert "Traceback" not in done.err
        assert "network" not in done.err, done.out  # the noise in the pictures may be more than 60 steps can learn
        assert (tmp_path / "check.png").exists()
        done = lightning("bench", *options, *fed, "--steps", "6", "--json", f"{feed}.json")
        assert done.status == 0, done.err
        measured = json.loads((tmp_path / f"{feed}.json").read_text())
        assert measured["device"].startswith(device)
        assert all(math.isfinite(row["ms_a_step"]) for row in measured["rows"])
