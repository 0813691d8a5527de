import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pytest
import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CyclicLR, ExponentialLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import MeanMetric, MeanSquaredError
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from resnet18 import Classifier, ImageTensors, resnet18
from resnet18.callbacks.predictions import Prediction
from resnet18.data.feeds.augment import Augmentation
from resnet18.data.feeds.resident import EvaluationLoader, TrainLoader
from resnet18.errors import RunError
from resnet18.optimization import decay_groups
from resnet18.schedules import WarmupCosine

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'"),
    pytest.mark.filterwarnings("ignore:Attribute 'schedule' removed from hparams"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
]


def tiny(num_classes: int = 10, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def make(backbone: nn.Module | None = None, **settings: Any) -> Classifier:
    defaults: dict[str, Any] = {"optimizer": partial(SGD, lr=0.1), "num_classes": 10, "mean": [0.3], "std": [0.4]}
    return Classifier(backbone or tiny(), **{**defaults, **settings})


def trainer(**settings: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**quiet, **settings})


def pixels(count: int, channels: int = 1, num_classes: int = 10) -> ImageTensors:
    numbers = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 8, 8, channels), dtype=torch.uint8, generator=numbers)
    return ImageTensors(images, torch.randint(0, num_classes, (count,), generator=numbers))


def training(batches: int) -> TrainLoader:
    return TrainLoader(pixels(4 * batches), 4, seed=0)


class Records(Logger):
    """What is logged, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "records"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


class Listening(Classifier):
    """Keeps the loss of every batch."""

    losses: list[float]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


# Pixels in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_pixels_that_are_not_bytes_are_refused(dtype: torch.dtype) -> None:
    classifier = make()
    for call in (classifier, classifier.normalize):
        with pytest.raises(TypeError, match=f"expected uint8 pixels, got {dtype}"):
            call(torch.zeros(2, 1, 8, 8, dtype=dtype))


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (numpy.zeros((2, 3, 8, 8), numpy.uint8), TypeError, "got a numpy.ndarray of uint8: torch.from_numpy(images)"),
        ([[0]], TypeError, "expected a torch.Tensor of uint8 pixels, N×3×H×W, got a list"),
        (Image.new("RGB", (8, 8)), TypeError, "torch.Tensor of uint8 pixels, N×3×H×W, got a PIL.Image.Image"),
        (torch.zeros(3, 8, 8).byte(), ValueError, "a batch of N×3×H×W, got 3×8×8: images[None] is a batch of one"),
        (torch.zeros(2, 8, 8, 3).byte(), ValueError, "got 2×8×8×3: images.permute(0, 3, 1, 2) is one"),
        (torch.zeros(2, 1, 8, 8).byte(), ValueError, "expected a batch of N×3×H×W, got 2×1×8×8"),
    ],
    ids=["array", "list", "picture", "one image", "channels last", "grey"],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_is_no_batch_of_images_is_called_what_it_is(
    images: Any, kind: type[Exception], message: str, training: bool
) -> None:
    classifier = make(tiny(channels=3), mean=[0.3] * 3, std=[0.4] * 3, input_size=(3, 8, 8)).train(training)
    for call in (classifier, classifier.normalize):
        with pytest.raises(kind, match=re.escape(message)):
            call(images)


def test_images_of_another_size_are_for_training_and_for_those_who_ask() -> None:
    classifier = make(input_size=(1, 16, 12))
    images = pixels(4).images.permute(0, 3, 1, 2)
    assert classifier.train()(images).shape == (4, 10)
    trainer().validate(classifier, EvaluationLoader(pixels(4), 2), verbose=False)  # as a Trainer's data have them
    with pytest.raises(ValueError, match=r"expected images of 16×12 pixels, got 8×8: .*resize\(images, \[16, 12\]\)"):
        classifier.eval()(images)
    assert classifier.backbone(classifier.normalize(images)).shape == (4, 10)
    assert classifier(torch.zeros(2, 1, 16, 12, dtype=torch.uint8)).shape == (2, 10)


def test_bytes_become_float_logits() -> None:
    logits = make()(pixels(3).images.permute(0, 3, 1, 2))
    assert (logits.shape, logits.dtype) == ((3, 10), torch.float32)


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_are_normalised_as_by_hand(channels_last: bool) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    classifier = make(nn.Identity(), mean=mean, std=std, channels_last=channels_last)
    images = pixels(4, channels=3).images.permute(0, 3, 1, 2)
    images[0], images[1] = 0, 255
    expected = torch.stack([(images[:, c].double() / 255 - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(classifier(images), expected.float(), rtol=0, atol=2e-6)
    assert torch.equal(classifier.normalize(images), classifier(images))


def test_mean_and_standard_deviation_are_in_the_state_and_come_from_it() -> None:
    classifier = make(nn.Identity(), mean=[0.25], std=[0.5])
    state = classifier.state_dict()
    assert (state["mean"].flatten().tolist(), state["std"].flatten().tolist()) == ([0.25], [0.5])
    images = pixels(2).images.permute(0, 3, 1, 2)
    other = make(nn.Identity(), mean=[0.0], std=[1.0])
    assert not torch.equal(other(images), classifier(images))
    other.load_state_dict(state)
    assert torch.equal(other(images), classifier(images))


@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_and_images_are_channels_last_unless_switched_off(channels_last: bool) -> None:
    backbone = resnet18(num_classes=10, width=16)
    seen: list[bool] = []
    backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    classifier = make(backbone, mean=[0.5] * 3, std=[0.5] * 3, channels_last=channels_last)
    classifier(torch.zeros(2, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2))  # as the feeds give them
    kernel = backbone.layer1.get_parameter("0.conv1.weight")
    assert [kernel.is_contiguous(memory_format=torch.channels_last), *seen] == [channels_last, channels_last]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_number_of_channels_are_laid_out_where_channels_last_is_off(channels: int) -> None:
    classifier = make(tiny(channels=channels), mean=[0.5] * channels, std=[0.5] * channels, channels_last=False)
    pixels = torch.zeros(2, 8, 8, channels, dtype=torch.uint8).permute(0, 3, 1, 2)  # as the feeds give them
    # Not is_contiguous(), which of one channel says yes to both formats: convolutions go by the strides.
    assert classifier.normalize(pixels).stride() == (channels * 64, 64, 8, 1)


def test_a_network_that_channels_last_would_break_is_left_as_it_is() -> None:
    first, narrow = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 12, 1, 2)
    classifier = make(nn.Sequential(first, narrow, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert first.weight.is_contiguous()
    assert classifier.hparams["channels_last"]
    for sound in (nn.Conv2d(4, 8, 3, 2), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1, 2, groups=2), nn.Conv2d(16, 8, 1, 2)):
        assert make(sound).memory_format == torch.channels_last


def test_channels_last_gives_the_same_logits() -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    logits = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        backbone = resnet18(num_classes=10, width=8)
        logits.append(make(backbone, mean=[0.5] * 3, std=[0.5] * 3, channels_last=channels_last).eval()(images))
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "loss must be a module or one of cross_entropy, binary_cross_entropy, not hinge"),
        ({"mean": [float("nan")]}, r"mean must be finite, not \[nan\]"),
        ({"std": [float("nan")]}, r"std must be above 0 and finite, not \[nan\]"),
        ({"std": [0.0]}, r"std must be above 0 and finite, not \[0.0\]"),
        ({"mean": [0.1, 0.2]}, "mean has 2 channels and std 1"),
        ({"class_names": ["a", "b"]}, "2 class names for 10 classes"),
    ],
)
def test_values_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


# Scores


def scored(num_classes: int, labels: list[int], batch_size: int) -> tuple[Classifier, EvaluationLoader, Tensor]:
    """A classifier whose logits are the pixels themselves, images, and those pixels."""
    numbers = torch.Generator().manual_seed(2)
    rows = torch.stack([torch.randperm(200, generator=numbers)[:num_classes] for _ in labels])
    images = rows.to(torch.uint8).view(len(labels), 1, num_classes, 1)
    classifier = make(nn.Flatten(), num_classes=num_classes, mean=[0.0], std=[1 / 255])
    return classifier, EvaluationLoader(ImageTensors(images, torch.tensor(labels)), batch_size), rows


def hits_by_hand(rows: Tensor, labels: list[int], top: int) -> int:
    hits = 0
    for row, label in zip(rows.tolist(), labels, strict=True):
        hits += sum(value > row[label] for value in row) < top
    return hits


@pytest.mark.parametrize("batch_size", [1, 7, 23, 50])
def test_top1_top5_and_the_loss_are_those_counted_by_hand_for_ragged_batches(batch_size: int) -> None:
    labels = [number % 10 for number in range(23)]
    classifier, loader, rows = scored(10, labels, batch_size)
    top1, top5 = hits_by_hand(rows, labels, 1), hits_by_hand(rows, labels, 5)
    assert 0 < top1 < top5 < 23
    losses = [
        math.log(sum(math.exp(value - row[label]) for value in row))
        for row, label in zip(rows.tolist(), labels, strict=True)
    ]
    for stage, (scores,) in (
        ("val", trainer().validate(classifier, loader, verbose=False)),
        ("test", trainer().test(classifier, loader, verbose=False)),
    ):
        assert scores.keys() == {f"{stage}/loss", f"{stage}/top1", f"{stage}/top5"}
        assert scores[f"{stage}/top1"] == torch.tensor(top1 / 23).item()
        assert scores[f"{stage}/top5"] == torch.tensor(top5 / 23).item()
        assert scores[f"{stage}/loss"] == pytest.approx(sum(losses) / 23, rel=1e-5)


def test_scores_start_anew_in_every_validation() -> None:
    classifier, loader, _ = scored(10, [1, 2, 3, 4, 5], 2)
    runner = trainer()
    assert runner.validate(classifier, loader, verbose=False) == runner.validate(classifier, loader, verbose=False)


@pytest.mark.parametrize(("classes", "names"), [(5, {"loss", "top1"}), (6, {"loss", "top1", "top5"})])
def test_top5_is_of_more_than_five_classes(classes: int, names: set[str]) -> None:
    labels = [0, 1, 2, 0, 1]
    classifier, loader, rows = scored(classes, labels, 2)
    (scores,) = trainer().validate(classifier, loader, verbose=False)
    assert scores.keys() == {f"val/{name}" for name in names}
    assert scores["val/top1"] == torch.tensor(hits_by_hand(rows, labels, 1) / 5).item()


def test_every_metric_says_which_way_it_gets_better() -> None:
    classifier = make()
    classifier.val_scores.add_metrics({"brier": MeanSquaredError(), "entropy": MeanMetric()})
    assert classifier.metric_modes == {
        **{"val/loss": "min", "val/top1": "max", "val/top5": "max", "val/brier": "min", "val/entropy": None},
        **{"train/loss": "min", "lr": None, "images_per_s": None},
    }


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_weights_that_are_not_numbers_end_the_run(stage: str) -> None:
    classifier = make()
    with torch.no_grad():
        classifier.backbone.get_parameter("5.weight").fill_(float("nan"))
    name = {"validate": "val", "test": "test"}[stage]
    with pytest.raises(RunError, match=f"{name}/loss is nan in epoch 1: the training diverged"):
        getattr(trainer(), stage)(classifier, EvaluationLoader(pixels(6), 4), verbose=False)


class Fragile(nn.Module):
    """Logits that are no numbers for an image with a white pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).masked_fill((images == 1.0).flatten(1), float("nan"))


def test_a_single_image_without_a_number_ends_the_run() -> None:
    images = torch.zeros(7, 2, 5, 1, dtype=torch.uint8)
    classifier = make(Fragile(), mean=[0.0], std=[1.0])
    trainer().validate(
        classifier, EvaluationLoader(ImageTensors(images, torch.zeros(7, dtype=torch.long)), 3), verbose=False
    )
    images[4, 1, 1] = 255
    with pytest.raises(RunError, match="val/loss is nan"):
        trainer().validate(
            classifier, EvaluationLoader(ImageTensors(images, torch.zeros(7, dtype=torch.long)), 3), verbose=False
        )


def test_a_training_that_diverges_ends_at_its_next_validation() -> None:
    classifier = make(optimizer=partial(SGD, lr=1e30))
    with pytest.raises(RunError, match=r"val/loss is (nan|inf) in epoch 1: the training diverged"):
        trainer(max_epochs=3).fit(classifier, training(5), EvaluationLoader(pixels(6), 4))


def test_predictions_are_the_likeliest_classes_with_their_probabilities() -> None:
    classifier, loader, rows = scored(10, [0] * 5, 2)
    classifier.std.fill_(1.0)  # logits between 0 and 1: probabilities that differ
    batches: Any = trainer().predict(classifier, loader)
    assert all(isinstance(batch, Prediction) for batch in batches)
    assert torch.cat([batch.positions for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert torch.cat([batch.classes for batch in batches]).tolist() == rows.argmax(1).tolist()
    expected = (rows.float() / 255).softmax(1).amax(1)
    torch.testing.assert_close(torch.cat([batch.probabilities for batch in batches]), expected)


# Optimizers


def test_norm_layers_and_biases_are_spared_from_decay_in_resnet18() -> None:
    decayed, spared = groups_of(resnet18(width=8))
    assert len(decayed) == 21
    assert len(spared) == 2 * 20 + 1


class Normed(nn.Module):
    """Norm layers and biases whose weights have the shape of images, as in networks with ``LayerNorm([C, H, W])``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.LayerNorm([8, 6, 6])
        self.group = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.shift = nn.Module()
        self.shift.bias = nn.Parameter(torch.zeros(8, 6, 6))


@pytest.mark.parametrize(
    "build",
    [
        lambda: ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=10),
        lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=10),
        lambda: torchvision.models.VisionTransformer(16, 8, 1, 1, 8, 16, num_classes=10),
        Normed,
    ],
    ids=["convnext", "swin", "vit", "layer norm over images"],
)
def test_norm_layers_and_biases_are_spared_from_decay_in_other_networks(build: Callable[[], nn.Module]) -> None:
    groups_of(build())


def groups_of(network: nn.Module) -> tuple[set[str], set[str]]:
    """The names in both groups, after checking them against the kinds of the network's layers."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    first, second = decay_groups(network)
    assert "weight_decay" not in first
    assert second["weight_decay"] == 0.0
    listed = [names[id(parameter)] for group in (first, second) for parameter in group["params"]]
    assert sorted(listed) == sorted(names.values())
    spared = {names[id(parameter)] for parameter in second["params"]}
    decayed = set(listed) - spared
    kinds = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    for place, module in network.named_modules():
        own = {f"{place}.{name}".lstrip("."): name for name, _ in module.named_parameters(recurse=False)}
        if isinstance(module, kinds):
            assert own.keys() <= spared
        assert {name for name, last in own.items() if last in ("bias", "in_proj_bias")} <= spared
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert {name for name, last in own.items() if last == "weight"} <= decayed
    return decayed, spared


def test_frozen_parameters_are_left_to_no_optimizer() -> None:
    backbone = resnet18(width=8)
    backbone.conv1.requires_grad_(False)
    backbone.bn1.requires_grad_(False)
    count = len(list(backbone.parameters())) - 3
    assert sum(len(group["params"]) for group in decay_groups(backbone)) == count
    for optimizer in (partial(SGD, lr=0.1), AdamW):
        made = make(backbone, optimizer=optimizer).make_optimizer()
        assert sum(len(group["params"]) for group in made.param_groups) == count


# SparseAdam takes sparse gradients only, which these networks do not have; Muon takes matrices only, and the kernels of
# convolutions are not. Every other optimizer of torch is here, those of later versions too.
OPTIMIZERS = [
    kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in ("Optimizer", "SparseAdam", "Muon")
]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_of_torch_can_be_made_and_makes_a_step(kind: Any) -> None:
    classifier = make(optimizer=partial(kind, lr=0.01))
    optimizer: Any = classifier.make_optimizer()
    assert type(optimizer) is kind
    before = [parameter.detach().clone() for parameter in classifier.backbone.parameters()]
    images, labels = next(iter(training(1)))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(classifier(images), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    after = list(classifier.backbone.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if "weight_decay" in inspect.signature(kind).parameters])
def test_every_optimizer_that_decays_spares_norm_layers_and_biases(kind: Any) -> None:
    for decay, expected in ((0.25, [0.25, 0.0]), (0.0, [0.0])):
        optimizer = make(optimizer=partial(kind, lr=0.01, weight_decay=decay)).make_optimizer()
        assert [group["weight_decay"] for group in optimizer.param_groups] == expected


def test_lbfgs_trains_under_the_trainer() -> None:
    classifier = make(optimizer=partial(torch.optim.LBFGS, lr=0.1, max_iter=3))
    runner = trainer(max_epochs=1)
    runner.fit(classifier, training(3))
    assert runner.global_step == 3


# Schedules

EPOCHS, BATCHES = 2, 3
STEPS = EPOCHS * BATCHES


@pytest.mark.parametrize(
    ("schedule", "interval", "steps"),
    [
        (partial(StepLR, step_size=1), None, EPOCHS),
        (partial(StepLR, step_size=1), "step", STEPS),
        (partial(ExponentialLR, gamma=0.9), None, EPOCHS),
        (partial(OneCycleLR, max_lr=0.1), None, STEPS),
        (partial(OneCycleLR, max_lr=0.1), "epoch", EPOCHS),
        (partial(CyclicLR, base_lr=0.01, max_lr=0.1, cycle_momentum=False), None, STEPS),
        (WarmupCosine, None, STEPS),
        (partial(WarmupCosine, warmup=0.5), "epoch", EPOCHS),
        (partial(ReduceLROnPlateau, patience=0), None, EPOCHS),
        (lambda optimizer: WarmupCosine(optimizer, total_steps=9), None, STEPS),
        (lambda optimizer: StepLR(optimizer, 1), None, EPOCHS),
    ],
)
def test_each_schedule_steps_as_often_as_it_counts(schedule: Any, interval: Any, steps: int) -> None:
    classifier = make(optimizer=partial(SGD, lr=0.1, momentum=0.9), schedule=schedule, schedule_interval=interval)
    runner = trainer(max_epochs=EPOCHS)
    runner.fit(classifier, training(BATCHES), EvaluationLoader(pixels(5), 4))
    (config,) = runner.lr_scheduler_configs
    assert config.scheduler.last_epoch == steps
    assert config.interval == (interval or ("step" if steps == STEPS else "epoch"))


def test_plateaus_are_those_of_the_validation_loss() -> None:
    classifier = make(schedule=partial(ReduceLROnPlateau, patience=0, threshold=10.0, threshold_mode="abs"))
    runner = trainer(max_epochs=2)
    runner.fit(classifier, training(1), EvaluationLoader(pixels(5), 4))
    (config,) = runner.lr_scheduler_configs
    assert config.monitor == "val/loss"
    assert isinstance(config.scheduler, ReduceLROnPlateau)
    assert config.scheduler.num_bad_epochs == 0
    assert runner.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_gets_the_trainers_number_of_steps(accumulate: int) -> None:
    classifier = make(optimizer=partial(SGD, lr=0.1, momentum=0.9), schedule=partial(OneCycleLR, max_lr=0.1))
    runner = trainer(max_epochs=EPOCHS, accumulate_grad_batches=accumulate)
    runner.fit(classifier, training(4))
    (config,) = runner.lr_scheduler_configs
    assert isinstance(config.scheduler, OneCycleLR)
    assert config.scheduler.total_steps == config.scheduler.last_epoch == 8 // accumulate


def schedule_of_ones_own(optimizer: Optimizer, total_steps: int, power: float = 1.0) -> LRScheduler:
    return OneCycleLR(optimizer, max_lr=0.1 * power, total_steps=total_steps)


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        (partial(OneCycleLR, max_lr=0.1), 40),
        (partial(OneCycleLR, max_lr=0.1, total_steps=None), 40),
        (partial(OneCycleLR, max_lr=0.1, total_steps=7), 7),
        (lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=7), 7),
        (schedule_of_ones_own, 40),
        (partial(schedule_of_ones_own, power=2.0), 40),
        (partial(schedule_of_ones_own, total_steps=7), 7),
    ],
    ids=["class", "none", "given", "lambda", "function", "partial function", "partial function, given"],
)
def test_a_length_is_filled_in_where_it_is_left_out(schedule: Any, length: int) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    made = make(schedule=schedule).make_schedule(optimizer, 40)
    assert isinstance(made, OneCycleLR)
    assert made.total_steps == length


def test_without_a_schedule_the_rate_stays() -> None:
    classifier = make()
    runner = trainer(max_epochs=2)
    runner.fit(classifier, training(2))
    assert runner.lr_scheduler_configs == []
    assert runner.optimizers[0].param_groups[0]["lr"] == 0.1


# Logging and the device


def logged(every: int, batches: int, **settings: Any) -> tuple[list[tuple[int | None, dict[str, float]]], list[float]]:
    """The lines that two epochs log, and the loss of every batch."""
    classifier = listening(schedule=partial(StepLR, step_size=1, gamma=0.5))
    records = Records()
    trainer(max_epochs=2, log_every_n_steps=every, logger=records, **settings).fit(classifier, training(batches))
    return records.lines, classifier.losses


def listening(**settings: Any) -> Listening:
    classifier = Listening(tiny(), partial(SGD, lr=0.1), num_classes=10, mean=[0.3], std=[0.4], **settings)
    classifier.losses = []
    return classifier


def test_the_training_loss_is_the_mean_since_the_last_log_point() -> None:
    lines, losses = logged(every=3, batches=4)
    assert [step for step, _ in lines] == [2, 5]
    assert [line["train/loss"] for _, line in lines] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:6]) / 3], rel=1e-6
    )
    assert [line["lr"] for _, line in lines] == pytest.approx([0.1, 0.05])


def test_the_training_loss_is_that_mean_too_where_gradients_are_accumulated() -> None:
    lines, losses = logged(every=2, batches=8, accumulate_grad_batches=2)
    assert [step for step, _ in lines] == [1, 3, 5, 7]
    expected = [sum(losses[start : start + 4]) / 4 for start in range(0, 16, 4)]
    assert [line["train/loss"] for _, line in lines] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("every", "settings"), [(5, {}), (3, {"accumulate_grad_batches": 2})])
def test_an_epoch_with_fewer_steps_than_that_is_logged_at_its_end(every: int, settings: dict[str, int]) -> None:
    lines, losses = logged(every=every, batches=4, **settings)
    assert [step for step, _ in lines] == ([3, 7] if not settings else [1, 3])
    assert [line["train/loss"] for _, line in lines] == pytest.approx(
        [sum(losses[:4]) / 4, sum(losses[4:]) / 4], rel=1e-6
    )


def test_nothing_is_logged_where_the_trainer_is_told_so() -> None:
    lines, losses = logged(every=0, batches=3)
    assert len(losses) == 6
    assert lines == []


def test_label_smoothing_is_for_training_alone() -> None:
    images, labels = next(iter(training(1)))
    logits = make().train()(images)
    losses = []
    for smoothing in (0.0, 0.5):
        classifier = listening(label_smoothing=smoothing)
        (scores,) = trainer().validate(classifier, EvaluationLoader(pixels(6), 4), verbose=False)
        trainer(max_epochs=1).fit(classifier, training(1))
        assert classifier.losses == [F.cross_entropy(logits, labels, label_smoothing=smoothing).item()]
        losses.append(scores["val/loss"])
    assert losses[0] == losses[1]


class Syncs(TorchDispatchMode):
    """Counts what waits for the device: tensors that become numbers, and results whose size depends on values."""

    aten = torch.ops.aten
    # In inference mode the first of these is not reached through the others.
    waiting = (aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select)
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in self.waiting
        return func(*args, **(kwargs or {}))


class PerStep(Callback):
    """How many syncs there were up to the start of each training batch, and up to the end of the last."""

    def __init__(self, syncs: Syncs) -> None:
        self.syncs, self.marks = syncs, list[int]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.marks.append(self.syncs.count)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.marks.append(self.syncs.count)

    def per_step(self) -> list[int]:
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        (partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True), WarmupCosine),
        (partial(SGD, lr=0.1), None),
        (partial(SGD, lr=0.1), partial(StepLR, step_size=1)),
    ],
)
def test_nothing_waits_for_the_device_between_log_points(optimizer: Any, schedule: Any) -> None:
    syncs, records = Syncs(), Records()
    steps = PerStep(syncs)
    classifier = make(optimizer=optimizer, schedule=schedule, label_smoothing=0.1)
    loader = TrainLoader(pixels(64), 4, seed=0, augmentation=Augmentation(translate=1, flip=True))
    runner = trainer(max_epochs=1, log_every_n_steps=5, logger=records, callbacks=[steps])
    with syncs:
        runner.fit(classifier, loader)
    counts = steps.per_step()
    assert len(counts) == 16
    assert [step for step, _ in records.lines] == [4, 9, 14]
    assert counts == [0] * 16  # the one copy at a log point, by `tolist`, is seen in tests/gpu/test_without_one.py


def test_nothing_waits_for_the_device_at_log_points_without_a_logger() -> None:
    syncs = Syncs()
    steps = PerStep(syncs)
    with syncs:
        trainer(max_epochs=1, log_every_n_steps=5, callbacks=[steps]).fit(make(), training(12))
    assert steps.per_step() == [0] * 12


class PerScoredBatch(Callback):
    """How many syncs there were up to the start of each batch that is scored."""

    def __init__(self, syncs: Syncs) -> None:
        self.syncs, self.marks = syncs, list[int]()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.marks.append(self.syncs.count)


def test_nothing_waits_for_the_device_between_the_batches_of_a_validation() -> None:
    syncs = Syncs()
    batches = PerScoredBatch(syncs)
    with syncs:
        trainer(callbacks=[batches]).validate(make(), EvaluationLoader(pixels(30), 4), verbose=False)
    assert len(batches.marks) == 8
    assert len(set(batches.marks)) == 1


# Compilation


def test_compiling_leaves_the_names_of_the_state_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = make(), make(compile=True)
    images = pixels(3).images.permute(0, 3, 1, 2)
    expected = plain.eval()(images)
    compiled.eval().setup("fit")
    assert compiled.backbone._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled(images), expected)


def test_nothing_is_compiled_unless_asked_for_and_only_for_training() -> None:
    plain, asked = make(), make(compile=True)
    plain.setup("fit")
    asked.setup("validate")
    assert plain.backbone._compiled_call_impl is None
    assert asked.backbone._compiled_call_impl is None
