"""The moving average of the weights: what it is, and that it is what is scored and saved, whenever that happens."""

import csv
import re
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from resnet18 import Classifier, ImageTensors, load_run, resnet18
from resnet18.callbacks.ema import RAW_WEIGHTS, WeightAverage
from resnet18.callbacks.training_log import MEASURED
from resnet18.data.feeds.resident import EvaluationLoader, TrainLoader
from resnet18.storage.checkpoints import read_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The following callbacks returned in"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
]
Weights = dict[str, Tensor]


def make(ema: float, kind: type[Classifier] = Classifier) -> Classifier:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_classes": 10, "mean": [0.5] * 3, "std": [0.3] * 3, "ema": ema}
    return kind(resnet18(num_classes=10, width=8), partial(SGD, lr=0.02, momentum=0.9), **settings)


def fit(classifier: Classifier, *callbacks: Callback, place: Path, **more: Any) -> Trainer:
    ckpt_path = more.pop("ckpt_path", None)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    settings: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "num_sanity_val_steps": 0, **quiet}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings |= {"default_root_dir": place, "enable_checkpointing": saves, **more}
    trainer = Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(classifier, TrainLoader(pixels(24), 4, seed=0), EvaluationLoader(pixels(9), 4), ckpt_path=ckpt_path)
    return trainer


def pixels(count: int) -> ImageTensors:
    numbers = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=numbers)
    return ImageTensors(images, torch.randint(0, 10, (count,), generator=numbers))


def floats(state: Weights, prefix: str = "") -> Weights:
    named = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value.detach().clone() for name, value in named.items() if value.is_floating_point()}


class ByHand(Callback):
    """The average, computed beside the run in float64, and the raw weights of every step."""

    def __init__(self, decay: float, place: Path) -> None:
        self.decay, self.place = decay, place
        self.averages: list[Weights] = []
        self.raw: list[Weights] = []
        self.losses: list[tuple[float, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.averages.append({name: value.double() for name, value in self._weights(pl_module).items()})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any, **others: Any) -> None:
        step = trainer.global_step
        if step == len(self.averages):
            decay = min(self.decay, (1 + step) / (10 + step))
            self.raw.append(self._weights(pl_module))
            before = self.averages[-1]
            averages = {name: decay * before[name] + (1 - decay) * value for name, value in self.raw[-1].items()}
            self.averages.append(averages)
            trainer.save_checkpoint(self.place / f"step{step}.ckpt")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any, **others: Any
    ) -> None:
        trainer.save_checkpoint(self.place / f"within{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network: Any = deepcopy(pl_module).cpu().eval()
        assert same(self._weights(network), self.averages[-1])
        data = pixels(9)
        with torch.no_grad():
            logits = network(data.images.permute(0, 3, 1, 2))
        self.losses.append((trainer.callback_metrics["val/loss"].item(), F.cross_entropy(logits, data.labels).item()))

    def _weights(self, module: LightningModule) -> Weights:
        return floats(module.state_dict(), "backbone.")


def same(weights: Weights, expected: Weights) -> bool:
    assert weights.keys() == expected.keys()
    pairs = [(weights[name].double(), value.double()) for name, value in expected.items()]
    return all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in pairs)


def equal(weights: Weights, expected: Weights) -> bool:
    assert weights.keys() == expected.keys()
    return all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_average_computed_by_hand_and_what_is_scored_and_saved(accumulate: int, tmp_path: Path) -> None:
    hand = ByHand(0.6, tmp_path)
    best = ModelCheckpoint(tmp_path, "best", monitor="val/loss", save_weights_only=True, enable_version_counter=False)
    whole = ModelCheckpoint(tmp_path, "epoch{epoch}", save_top_k=-1, auto_insert_metric_name=False)
    classifier = make(0.6)
    trainer = fit(classifier, hand, best, whole, place=tmp_path, accumulate_grad_batches=accumulate)
    steps = 12 // accumulate
    assert len(hand.raw) == steps
    assert not same(hand.averages[-1], hand.raw[-1])
    assert hand.averages[-1].keys() > {"bn1.running_mean", "bn1.running_var", "bn1.weight", "fc.bias"}
    # In mid-run, within a validation and after one: always the same two.
    ends = {steps // 2: "epoch0", steps: "epoch1"}
    saved = {f"step{step}": step for step in range(1, steps + 1)}
    saved |= {f"within{step}": step for step in ends} | {name: step for step, name in ends.items()}
    for name, step in saved.items():
        content = read_checkpoint(tmp_path / f"{name}.ckpt")
        assert same(floats(content["state_dict"], "backbone."), hand.averages[step]), name
        assert equal(content[RAW_WEIGHTS], hand.raw[step - 1]), name
        assert content["state_dict"]["backbone.bn1.num_batches_tracked"] == accumulate * step
    for logged, computed in hand.losses:
        assert logged == pytest.approx(computed, rel=1e-5)
    content = read_checkpoint(tmp_path / "best.ckpt")
    assert RAW_WEIGHTS not in content
    at = list(ends)[int(hand.losses[1] < hand.losses[0])]
    assert same(floats(content["state_dict"], "backbone."), hand.averages[at])
    # A module that is trained holds the averages, and keeps them.
    for _ in range(2):
        assert same(floats(classifier.backbone.state_dict()), hand.averages[-1])
        (scores,) = trainer.validate(classifier, EvaluationLoader(pixels(9), 4), verbose=False)
        assert scores["val/loss"] == pytest.approx(hand.losses[-1][0], rel=1e-6)


class Failing(Classifier):
    def on_validation_epoch_end(self) -> None:
        raise ZeroDivisionError


class Ending(Callback):
    """Saves when an exception ends the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


def test_a_crash_within_a_validation_leaves_nothing_swapped_in_what_is_saved(tmp_path: Path) -> None:
    hand, path = ByHand(0.6, tmp_path), tmp_path / "crash.ckpt"
    with pytest.raises(ZeroDivisionError):
        fit(make(0.6, Failing), hand, Ending(path), place=tmp_path)
    content = read_checkpoint(path)
    assert same(floats(content["state_dict"], "backbone."), hand.averages[6])
    assert equal(content[RAW_WEIGHTS], hand.raw[5])
    resumed = ByHand(0.6, tmp_path)
    classifier = make(0.6)
    fit(classifier, resumed, place=tmp_path, ckpt_path=path, max_epochs=1)  # to its end, and no further
    assert equal(floats(classifier.backbone.state_dict()), floats(content["state_dict"], "backbone."))


def test_off_is_off(tmp_path: Path) -> None:
    states = []
    for ema in (0.0, 0.5):
        classifier = make(ema)
        fit(classifier, place=tmp_path, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
        states.append(read_checkpoint(tmp_path / "last.ckpt"))
        assert (classifier.averaging in classifier.configure_callbacks()) == bool(ema)
        assert (classifier.averaging.average is None) == (not ema)
    assert states[1].keys() - states[0].keys() == {RAW_WEIGHTS}
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys() == make(0.0).state_dict().keys()
    raw = {f"backbone.{name}": value for name, value in states[1][RAW_WEIGHTS].items()}
    assert equal({name: states[0]["state_dict"][name] for name in raw}, raw)  # the training is the same


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan"), float("inf")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"ema must be at least 0 and below 1, not {decay}"):
        make(decay)


class Odd(nn.Module):
    """Tied weights, a buffer that is another tensor every time, and one that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def step(self) -> None:
        self.seen = self.seen + 1
        self.scratch = self.scratch + 1
        with torch.no_grad():
            self.first.weight += 1


def test_tied_weights_are_averaged_once_and_a_buffer_is_found_again() -> None:
    network = Odd()
    average, before = WeightAverage(network, 0.9), network.first.weight.detach().clone()
    assert average.averages().keys() == network.state_dict().keys()
    network.step()
    average.update(1)
    network.step()
    average.update(100)
    decays = 2 / 11, 0.9
    expected = decays[1] * (1 - decays[0]) + (1 - decays[1]) * 2
    average.swap_in()
    assert network.seen.item() == pytest.approx(expected)
    torch.testing.assert_close(network.second.weight, before + expected)
    assert network.first.weight is network.second.weight
    assert network.scratch.item() == 2
    average.swap_in()
    average.swap_out()
    assert network.seen.item() == 2
    torch.testing.assert_close(network.first.weight, before + 2)


def test_weights_of_16_bits_are_averaged_in_32_and_keep_their_place_in_memory() -> None:
    network = nn.Conv2d(4, 8, 3).bfloat16().to(memory_format=torch.channels_last)
    nn.init.constant_(network.weight, 1.0)
    average = WeightAverage(network, 0.999)
    nn.init.constant_(network.weight, 2.0)
    for step in range(10_000, 10_100):
        average.update(step)
    (weight, _), place = average.averages().values(), network.weight.data_ptr()
    assert (weight.dtype, weight.stride()) == (torch.float32, network.weight.stride())
    torch.testing.assert_close(weight, torch.full_like(weight, 2 - 0.999**100))
    average.swap_in()
    assert network.weight.data_ptr() == place
    assert torch.equal(network.weight, weight.bfloat16())


# Through the program

STOP = """
import signal
from pathlib import Path
from lightning.pytorch import Callback

class InTraining(Callback):
    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == 14:
            signal.raise_signal(signal.SIGTERM)

class InValidation(Callback):
    def on_validation_batch_end(self, trainer, *arguments):
        if trainer.global_step == 10 and not Path("stopped").exists():
            Path("stopped").touch()
            signal.raise_signal(signal.SIGTERM)
"""
RUN = (
    *("fit", "--config", CONFIG, "--model.backbone.width", "8", "--trainer.precision", "32-true"),
    *(
        "--data.batch_size",
        "128",
        "--model.optimizer.lr",
        "0.02",
        "--trainer.max_epochs",
        "2",
        "--trainer.logger",
        "false",
    ),
)


def rows(run: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def test_a_run_with_an_average_is_scored_stopped_and_resumed(lightning) -> None:
    Path("mynet.py").write_text(STOP)
    stops = {"whole": (), "training": ("mynet.InTraining",), "validation": ("mynet.InValidation",)}
    for name, stop in stops.items():
        asked = ("--trainer.callbacks+", *stop) if stop else ()
        done = lightning(*RUN, "--model.ema", "0.9", "--run_dir", name, *asked)
        assert done.status == (143 if stop else 0), done.err
        if stop:
            done = lightning("fit", "--ckpt_path", name)
            assert done.status == 0, done.err
    whole, *others = (read_checkpoint(Path(name, "checkpoints", "last.ckpt")) for name in stops)
    assert not equal(whole[RAW_WEIGHTS], floats(whole["state_dict"], "backbone."))
    for other, name in zip(others, ("training", "validation"), strict=True):
        assert equal(other["state_dict"], whole["state_dict"]), name
        assert equal(other[RAW_WEIGHTS], whole[RAW_WEIGHTS]), name
        assert rows(name) == rows("whole")

    scores = [row for row in rows("whole") if row["val/top1"]]
    best = max(reversed(scores), key=lambda row: float(row["val/top1"]))
    for place, row in (("whole", best), ("whole/checkpoints/last.ckpt", scores[-1])):
        done = lightning("validate", "--ckpt_path", place)
        assert f"val/loss {float(row['val/loss']):.4f}  val/top1 {100 * float(row['val/top1']):.2f} %" in done.out
    assert re.match(r"test/loss \d", lightning("test", "--ckpt_path", "whole/checkpoints/last.ckpt").out)
    stored = read_checkpoint(Path("whole/checkpoints/best.ckpt"))
    assert equal(dict(load_run("whole").model.state_dict()), stored["state_dict"])
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    assert lightning(*RUN, *short, "--run_dir", "plain").status == 0
    with_average, without = (Path(name, "checkpoints/best.ckpt").stat().st_size for name in ("whole", "plain"))
    assert with_average == pytest.approx(without, rel=0.02)
