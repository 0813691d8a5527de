"""``fit`` as a function: the run that ``lightning fit`` would make, its errors as errors, and interrupts."""

import queue
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, SMALL
from engine.test_stopping import SIGNAL
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

import resnet18
from resnet18.errors import RunError, UsageError
from resnet18.storage.status import read_status

SHORT = ["--config", CONFIG, *SMALL, "--trainer.logger", "false", "--trainer.limit_train_batches", "3"]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)


def test_it_returns_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = resnet18.fit(" ".join(map(str, SHORT)) + " --trainer.max_epochs 2 --run_dir 'my run'")
    assert run.directory == Path("my run")
    assert run.curve("val/top1")[0] == [3, 6]
    assert run.config["trainer"]["max_epochs"] == 2
    out, err = capsys.readouterr()
    assert "epoch 2/2 " in out
    assert err == ""
    again = resnet18.fit(["--ckpt_path", str(run.directory), "--trainer.max_epochs", 3])
    assert again.directory == run.directory
    assert again.curve("val/top1")[0] == [3, 6, 9]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("--config nowhere.yaml", UsageError, "there is no nowhere.yaml"),
        ("--config {config} --model.optimiser SGD", UsageError, "model.optimiser; did you mean model.optimizer"),
        ("--ckpt_path nowhere", RunError, "there is no checkpoint or run nowhere"),
        ("--config {config} --data ImageFolder --data.root nowhere", (RunError, UsageError), "no directory nowhere"),
        ("--config {config} --print_config", UsageError, "--help and --print_config train nothing, so there is no run"),
        ("--help", UsageError, "train nothing"),
        ("--config {config} --trainer.fast_dev_run true", RunError, "trainer.fast_dev_run keeps nothing"),
    ],
)
def test_what_is_wrong_is_an_error(options: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        resnet18.fit(options.format(config=CONFIG))
    assert not Path("runs").exists()


def test_an_interrupted_run_is_saved_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mynet.py").write_text(SIGNAL)
    where = ["--trainer.callbacks+", "mynet.Signal", "--trainer.callbacks.epoch", "1", "--trainer.callbacks.batch", "1"]
    signum = ["--trainer.callbacks.signum", "2"]
    run = resnet18.fit([*SHORT, "--trainer.max_epochs", "9", "--run_dir", "run", *where, *signum])
    assert run.directory is not None
    assert read_status(run.directory)["state"] == "stopped"
    assert run.model.num_classes == 10
    assert len(run.evaluate().labels) == 143
    last = run.directory / "checkpoints" / "last.ckpt"
    assert capsys.readouterr().err == f"\nstopped by SIGINT; resume with: fit('--ckpt_path {last}')\n"
    twice = ["--trainer.callbacks.times", "2", "--trainer.callbacks.epoch", "0"]
    Path("signalled").unlink()
    run = resnet18.fit([*SHORT, "--run_dir", "other", *where, *signum, *twice])
    assert capsys.readouterr().err == "\nstopped by SIGINT; nothing was saved\n"
    with pytest.raises(
        RunError, match=r"holds no checkpoints/best\.ckpt or .* yet; run\.watch\(\) shows how far it is$"
    ):
        _ = run.model


def test_devices_of_which_each_would_start_the_kernel_again_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", "In: ", raising=False)
    with pytest.raises(UsageError, match=r"^trainer\.devices: fit\(\) trains on one device here"):
        resnet18.fit([*SHORT, "--trainer.accelerator", "cpu", "--trainer.devices", "2"])


TRAIN = f"""
run = fit({[str(one) for one in SHORT]!r} + ["--trainer.max_epochs", "5000"])
"""
PLAIN = """
import lightning
from functools import partial
from torch import nn, optim
from resnet18 import Classifier, Digits

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))

class Say(lightning.Callback):
    def on_train_epoch_end(self, trainer, module):
        print("epoch", trainer.current_epoch + 1)

data = Digits()
model = Classifier.for_data(data, Net, partial(optim.SGD, lr=0.1))
trainer = lightning.Trainer(max_epochs=5000, accelerator="cpu", enable_progress_bar=False, callbacks=[Say()])
trainer.fit(model, datamodule=data)
"""


def run_cell(client: Any, kernel: KernelManager, code: str, interrupt_at: str = "") -> str:
    """What a cell prints and shows; the kernel is interrupted once it has printed a text."""
    sent, said, until = client.execute(code), "", time.monotonic() + 100
    while time.monotonic() < until:
        try:
            message = client.get_iopub_msg(timeout=10)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != sent:
            continue
        content = message["content"]
        said += content.get("text", "") + content.get("data", {}).get("text/plain", "")
        said += "\n".join(content.get("traceback", ()))
        if interrupt_at and interrupt_at in said:
            interrupt_at = ""
            kernel.interrupt_kernel()
        if content.get("execution_state") == "idle":
            return said
    raise AssertionError(said)


def test_in_a_notebook_an_interrupt_leaves_a_usable_run_and_model(tmp_path: Path) -> None:
    kernel = KernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    kernel.start_kernel(cwd=str(tmp_path))
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        said = run_cell(client, kernel, f"from resnet18 import fit, load_run{TRAIN}", "epoch    2/5000 ")
        assert "\x1b" not in said  # no bar, which would leave copies of itself
        assert said.count("stopped by SIGINT; resume with: fit('--ckpt_path runs/digits/") == 1
        assert "Traceback" not in said
        assert "stopped (SIGINT)" in run_cell(client, kernel, "run")
        assert "Evaluation(val: " in run_cell(client, kernel, "run.evaluate()")

        said = run_cell(client, kernel, PLAIN, "epoch 3\n")
        assert said.count("interrupted: the training ends after step ") == 1
        assert "Traceback" not in said
        assert "SystemExit" not in said
        used = "print(model(data.val.images[:2].permute(0, 3, 1, 2)).shape)\n"
        used += "run = load_run(trainer.checkpoint_callback.best_model_path, data=data); run.evaluate()"
        said = run_cell(client, kernel, used)
        assert "torch.Size([2, 10])" in said
        assert "Evaluation(val: " in said
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
