"""What a run prints when it starts and ends, and when it is finished already or needs too much memory."""

from pathlib import Path

import pytest
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN, SMALL
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from resnet18.cli.messages import finished, out_of_memory

STOP = """
from lightning.pytorch import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, *arguments) -> None:
        trainer.should_stop = trainer.global_step == 33
"""


def test_nothing_is_printed_but_what_is_meant(lightning) -> None:
    done = lightning("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "2")
    assert done.status == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    opening, net, images, feed, precision, first, second, empty, best, run, test, report, curves = lines
    assert opening.startswith("runs/digits/20")
    assert net == "ResNet, 176,258 parameters, on cpu, 32-true"
    assert images.startswith("1,295 images to train, 143 to validate, 10 classes, split ")
    assert feed == "resident feed, 0.1 MB"
    assert precision == "precision 32-true: as configured"
    assert first.startswith("epoch 1/2  loss ")
    for name in ("val/loss ", "val/top1 ", "img/s"):
        assert name in second
    assert not empty
    assert best.startswith("best    val/top1 ")
    assert best.endswith(" of 2")
    assert run == f"run     {opening}"
    assert test == "test    lightning test --ckpt_path runs/digits/latest"
    assert curves == "curves  wandb leet runs/digits/wandb"
    assert report == "report  runs/digits/latest/report.html"
    (part,) = Path(curves.split()[-1]).iterdir()
    assert not part.readlink().is_absolute()
    assert part.resolve().parents[1] == Path(opening).resolve()


@pytest.mark.parametrize(
    ("options", "stopped", "trained", "best"),
    [
        (("--trainer.max_steps", "27"), "trainer.max_steps: 27 steps", "27 steps, the last in epoch 2 of 9", 2),
        (("--trainer.callbacks", "mynet.Stop"), "a callback, which set", "33 steps, the last in epoch 2 of 9", 2),
    ],
)
def test_a_run_cut_short_says_by_what_and_where(
    options: tuple[str, ...], stopped: str, trained: str, best: int, lightning
) -> None:
    Path("mynet.py").write_text(DROPOUT_NET + STOP)
    done = lightning(*DROPOUT_RUN, "--trainer.max_epochs", "9", *options)
    assert done.status == 0, done.err
    why, where, top1, *_ = done.out.partition("\n\n")[2].splitlines()
    assert why.startswith(f"stopped early by {stopped}")
    assert where == f"trained {trained}"
    assert top1.endswith(f"of {best}")


OVER = {"loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 3}}}}, "global_step": 60, "callbacks": {}}


def trainer(**options) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_epochs": 3}, "this run is finished: 3 of 3 epochs; --trainer.max_epochs 6 continues it"),
        ({"max_epochs": 4}, None),
        ({"max_epochs": -1}, None),
        ({"max_steps": 50}, "this run is finished: 60 of 50 steps; --trainer.max_steps 100 continues it"),
        ({"max_steps": 61}, None),
    ],
)
def test_a_run_is_over_when_its_epochs_or_steps_are(options: dict[str, int], words: str | None) -> None:
    assert finished(OVER, trainer(**options), "run") == words


@pytest.mark.parametrize(
    ("callback", "state", "words"),
    [
        (Timer("00:00:00:09"), {"time_elapsed": {"train": 9.2}}, "its 9 s are used up; a longer --trainer.max_time"),
        (Timer("00:00:00:10"), {"time_elapsed": {"train": 9.2}}, None),
        (EarlyStopping("val/loss"), {"stopping_reason": 3}, "EarlyStopping ended it after 3 epochs; --init_from run"),
        (EarlyStopping("val/loss"), {"stopping_reason": 0, "wait_count": 2}, None),
    ],
)
def test_or_when_a_callback_ended_it(callback, state, words: str | None) -> None:
    text = finished({**OVER, "callbacks": {callback.state_key: state}}, trainer(callbacks=[callback]), "run")
    assert (text or "").startswith(f"this run is finished: {words}") if words else text is None


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB. Of the rest, …",
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB. A smaller ",
        ),
        (
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)\nframe #0: …",
            "can't allocate memory: you tried to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory). A ",
        ),
    ],
)
def test_too_little_memory_comes_with_what_to_do(error: str, start: str) -> None:
    text = out_of_memory(RuntimeError(error))
    assert text
    assert text.startswith(start)
    assert "--data.batch_size" in text
    assert out_of_memory(RuntimeError("shapes differ")) is None
