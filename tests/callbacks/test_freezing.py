"""The head alone, then everything: what moves in which epoch, through resumes and on two ranks."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIG, start
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from resnet18 import Classifier
from resnet18.callbacks.freezing import Freeze

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
]
HEAD = ("6.weight", "6.bias")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3))


def make(optimizer: Any = None) -> Classifier:
    optimizer = optimizer or partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    return Classifier(network(), optimizer, num_classes=3, mean=[0.3], std=[0.4])


def loaders() -> tuple[DataLoader, DataLoader]:
    numbers = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(0, 3, (24,), generator=numbers)
    return DataLoader(TensorDataset(images, labels), 6), DataLoader(TensorDataset(images, labels), 10)


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **settings})


class States(Callback):
    """The backbone's state before training, after every epoch, and which parameters have got gradients."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.with_gradient: list[set[str]] = []

    def note(self, module: LightningModule) -> None:
        backbone: Any = module.backbone
        self.states.append({name: value.clone() for name, value in backbone.state_dict().items()})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(pl_module)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone: Any = pl_module.backbone
        self.with_gradient.append({name for name, one in backbone.named_parameters() if one.grad is not None})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(pl_module)

    def moved(self) -> list[set[str]]:
        """In each epoch, the names of what has changed."""
        return [
            {name for name in before if not torch.equal(before[name], after[name])}
            for before, after in zip(self.states, self.states[1:], strict=False)
        ]


@pytest.mark.parametrize("val_check_interval", [None, 1])
@pytest.mark.parametrize(
    "optimizer", [partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1), partial(AdamW, lr=0.01, weight_decay=0.1)]
)
def test_the_trunk_stays_bit_for_bit_and_then_everything_moves(optimizer: Any, val_check_interval: int | None) -> None:
    classifier, states = make(optimizer), States()
    runner = trainer(Freeze(2), states, max_epochs=3, val_check_interval=val_check_interval)
    runner.fit(classifier, *loaders())
    everything = set(classifier.backbone.state_dict())
    assert states.moved() == [set(HEAD), set(HEAD), everything]
    assert states.with_gradient[:8] == [set(HEAD)] * 8  # the backward pass ends at the head
    held = sum(len(group["params"]) for group in runner.optimizers[0].param_groups)
    assert held == len(list(classifier.backbone.parameters()))


def test_after_the_frozen_epochs_the_norm_layers_train() -> None:
    modes: list[tuple[int, bool]] = []

    class Modes(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            backbone: Any = pl_module.backbone
            modes.append((trainer.current_epoch, backbone[1].training))
            assert backbone[0].training

    trainer(Freeze(1), Modes(), max_epochs=2, val_check_interval=2).fit(make(), *loaders())
    assert modes == [(0, False)] * 4 + [(1, True)] * 4


@pytest.mark.parametrize("epochs", [2, 9])
def test_a_linear_probe_trains_the_head_alone_and_leaves_the_model_as_it_was(epochs: int) -> None:
    classifier, states = make(), States()
    trainer(Freeze(epochs), states, max_epochs=2).fit(classifier, *loaders())
    assert states.moved() == [set(HEAD)] * 2
    assert all(parameter.requires_grad for parameter in classifier.backbone.parameters())
    states.states.clear()
    trainer(states, max_epochs=1).fit(classifier, *loaders())
    assert states.moved() == [set(classifier.backbone.state_dict())]


def test_parameters_frozen_elsewhere_stay_frozen() -> None:
    classifier, states = make(), States()
    backbone: Any = classifier.backbone
    backbone[0].requires_grad_(False)
    backbone[1].eval()
    trainer(Freeze(1), states, max_epochs=2).fit(classifier, *loaders())
    weights = {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert states.moved() == [set(HEAD), {*HEAD, *weights}]


def test_no_epochs_freeze_nothing() -> None:
    results = []
    for callbacks in ([], [Freeze(0)]):
        classifier = make()
        trainer(*callbacks, max_epochs=1).fit(classifier, *loaders())
        results.append(classifier.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(result.values() for result in results), strict=True))


def test_an_interrupted_run_leaves_nothing_frozen() -> None:
    class Broken(Callback):
        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise RuntimeError("broken")

    classifier = make()
    with pytest.raises(RuntimeError, match="broken"):
        trainer(Freeze(2), Broken(), max_epochs=1).fit(classifier, *loaders())
    assert all(parameter.requires_grad for parameter in classifier.backbone.parameters())
    assert all(module.training for module in classifier.backbone.modules())


# Through the program

MODULE = """
import torch
from lightning.pytorch import Callback
from torch import nn

from resnet18.errors import RunError

class Net(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*layers, nn.Linear(8, num_classes))

class Crash(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 33:
            raise RunError("crashed")

class Keep(Callback):
    # What every rank holds after every epoch.
    def on_train_epoch_end(self, trainer, module):
        torch.save(module.backbone.state_dict(), f"{trainer.current_epoch}-{trainer.global_rank}.pt")
"""
FIT = (
    *("fit", "--model.backbone", "mynet.Net", "--model.optimizer", "AdamW", "--model.optimizer.weight_decay", "0.1"),
    *("--data", "Digits", "--trainer.logger", "false", "--last.every_n_steps", "7"),
    *("--trainer.enable_progress_bar", "false", "--config", "freeze.yaml"),
)


def prepare(place: Path, *more: str) -> None:
    (place / "mynet.py").write_text(MODULE)
    freeze = {"class_path": "resnet18.callbacks.freezing.Freeze", "init_args": {"epochs": 2}}
    for name, others in (("freeze.yaml", more), ("crash.yaml", (*more, "mynet.Crash"))):
        callbacks = [freeze, *({"class_path": other} for other in others)]
        (place / name).write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))


def weights(place: Path) -> dict[str, Tensor]:
    return torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("every", ["1.0", "0.25"])
def test_a_run_resumed_inside_a_frozen_epoch_ends_like_a_whole_one(lightning, tmp_path: Path, every: str) -> None:
    prepare(tmp_path)
    fit = (*FIT, "--trainer.max_epochs", "3", "--trainer.val_check_interval", every)
    assert lightning(*fit, "--run_dir", "whole").status == 0
    assert lightning(*fit, "--config", "crash.yaml", "--run_dir", "resumed").status == 1
    before = weights(tmp_path / "resumed")
    resumed = lightning("fit", "--ckpt_path", "resumed", "--config", "freeze.yaml")
    assert resumed.status == 0, resumed.err
    whole, again = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert not torch.equal(before["backbone.0.weight"], whole["backbone.0.weight"])


def test_two_ranks_freeze_thaw_and_stay_equal(tmp_path: Path) -> None:
    prepare(tmp_path, "mynet.Keep")
    ranks = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    process = start([*FIT, *ranks, "--trainer.max_epochs", "3", "--run_dir", "run"], tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    epochs = [[torch.load(tmp_path / f"{epoch}-{rank}.pt") for rank in range(2)] for epoch in range(3)]
    parameters = [name for name in epochs[0][0] if "running" not in name and "num_batches" not in name]
    for first, second in epochs:
        assert all(torch.equal(first[name], second[name]) for name in parameters)
    frozen, later, thawed = (first for first, _ in epochs)
    changed = [{name for name in frozen if not torch.equal(frozen[name], other[name])} for other in (later, thawed)]
    assert changed == [{"5.weight", "5.bias"}, set(frozen)]


def test_a_number_below_0_is_refused(lightning) -> None:
    done = lightning("fit", "--config", CONFIG, "--trainer.callbacks", "Freeze", "--trainer.callbacks.epochs=-1")
    assert (done.status, "trainer.callbacks" in done.err, "epochs" in done.err) == (2, True, True), done.err
