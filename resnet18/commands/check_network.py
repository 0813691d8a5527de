"""The network before its first real step: its loss, its gradients, and whether it can overfit one batch.

The loss is the model's own, from its ``training_step``. Logits are compared with class numbers only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from resnet18.classifier import Classifier
from resnet18.commands.check_data import Finding, first_few
from resnet18.errors import counted
from resnet18.optimization import decay_groups

Batch = tuple[Tensor, Tensor]  # uint8 B×C×H×W and targets, on the network's device

UNSURE = 1.0  # how far above ln(classes) the first loss may lie: logits of standard deviation 1.4 raise it by that
KNOWING = 0.3  # share of ln(classes) that it may lie below: a lower loss needs knowledge of labels
LEAK = 1e-3  # an effect on other images' logits counts from this share of that on an image's own
OVERFIT = 0.1  # share of the first loss at which a batch counts as overfit
AT_LEAST = 5  # steps: behind two layers that start at zero, a gradient appears in the third
GROUPS_SHOWN = 6
DROPPING = ("Dropout", "DropPath", "DropBlock", "StochasticDepth")  # in the names of layers that drop at random


class Network:
    """A model on the configured device and in its precision, without a Trainer around it."""

    def __init__(self, model: Classifier, trainer: Trainer, single_label: bool) -> None:
        self.trainer, self.device, self.precision = trainer, trainer.strategy.root_device, trainer.precision_plugin
        self.single_label = single_label  # each target is a class number
        self.precision.convert_module(model)  # in place
        self.model: Classifier = model.to(self.device)
        self.model.mixing = None  # pyrefly: ignore[bad-assignment]  # mixed images have no one class to get right
        trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.parameters = {name.removeprefix("backbone."): value for name, value in trainable.items()}

    def logits(self, images: Tensor) -> Tensor:
        with self.precision.forward_context():
            return self.model.backbone(self.model.normalize(images)).float()

    def loss(self, batch: Batch) -> Tensor:
        with self.precision.forward_context():
            output: Any = self.model.training_step(batch, 0)
        return output["loss"] if isinstance(output, Mapping) else output


def loss_at_start(network: Network, batches: Sequence[Batch]) -> Finding:
    """The untrained network's cross-entropy against ln(classes); for other targets its own loss, against nothing."""
    network.model.train()
    plain, total = network.single_label, 0.0
    with torch.no_grad():
        for images, targets in batches:
            loss = F.cross_entropy(network.logits(images), targets) if plain else network.loss((images, targets))
            total += len(images) * loss.item()
    count, classes = sum(len(images) for images, _ in batches), network.model.num_classes
    value, expected = total / count, math.log(classes)
    finding = Finding("first loss", f"{value:.3f} of {counted(count, 'image')}")
    if not math.isfinite(value):
        finding.wrong("not finite before the first step: look at the initialisation, and at the precision")
        return finding
    if not plain:
        return Finding("first loss", f"{finding.numbers}; what it should be is known for class numbers only", "skip")
    finding.numbers += f", and {expected:.3f} = ln {classes} for knowing nothing"
    if value > expected + UNSURE:
        finding.warn(f"{value - expected:.1f} above: it is sure of what it can't know; start its last layer smaller")
    elif value < (1 - KNOWING) * expected:
        finding.warn("below: it knows labels already; fine for trained weights, else they leak into the input")
    return finding


def independence(network: Network, images: Tensor) -> Finding:
    """Whether an image's logits depend on the other images, which become noise one at a time."""
    # Meant for a network that has taken a few steps: layers that start at zero let nothing through, good or bad.
    images = images[:4]
    network.model.eval()
    with torch.no_grad():
        before = network.logits(images)
        effects = []
        for number in range(len(images)):
            changed = images.clone()
            changed[number].random_(256)
            effects.append((network.logits(changed) - before).abs().flatten(1).amax(1))
    effect = torch.stack(effects).cpu()  # of image i on the logits of image j
    own, others = effect.diag(), (effect - effect.diag().diag()).max()
    finding = Finding("independence", f"noise moves an image's own logits by {own.min():.1e}, others' by {others:.1e}")
    if others > LEAK * own.max():
        finding.wrong(
            "images of a batch change each other's logits: look for a view, reshape or permute that moves the batch's "
            "dimension, or a norm over the batch in evaluation mode"
        )
    elif own.min() == 0:
        finding.wrong("the logits do not depend on the image: look for a constant, or a dead layer")
    elif len(images) < 2 or not effect.isfinite().all():
        return Finding("independence", "needs two images in a batch, and finite logits", "skip")
    return finding


def at_peak(network: Network) -> Optimizer:
    """The configured optimizer at the highest learning rate that its schedule gives."""
    optimizer = network.model.make_optimizer()
    network.model.make_schedule(optimizer, total_steps=100)  # for its peak only: it is never stepped
    for group in optimizer.param_groups:
        group["lr"] = group.get("max_lr", group.get("initial_lr", group["lr"]))
    return optimizer


@dataclass
class Trace:
    """How the steps on one batch went."""

    by: str  # the optimizer and its learning rate
    losses: list[float] = field(default_factory=list)
    top1: float | None = None  # share of right class numbers in the end; None for other targets
    largest: dict[str, Tensor] = field(default_factory=dict)  # gradient of each parameter that was given any
    broken: list[str] = field(default_factory=list)  # parameters whose very first gradient is not finite

    @property
    def overfit(self) -> bool:
        return self.top1 == 1 or self.losses[-1] < OVERFIT * self.losses[0]


def overfit(network: Network, batch: Batch, steps: int) -> Trace:
    """Takes up to ``steps`` optimizer steps on one batch, without dropout, with the Trainer's gradient clipping."""
    images, targets = batch
    optimizer = at_peak(network)
    rate = max(float(group["lr"]) for group in optimizer.param_groups)
    trace = Trace(f"{type(optimizer).__name__} at lr {rate:.3g}")
    network.model.train()
    for module in network.model.modules():
        if any(name in type(module).__name__ for name in DROPPING):
            module.eval()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = network.loss(batch)
        loss.backward()
        trace.losses.append(loss.item())
        for name, parameter in network.parameters.items():
            if parameter.grad is not None:
                trace.largest[name] = parameter.grad.abs().max() + trace.largest.get(name, 0)  # zero only if all are
        if len(trace.losses) == 1:
            trace.broken = [name for name, value in trace.largest.items() if not value.isfinite()]
        if limit := network.trainer.gradient_clip_val:
            by_value = network.trainer.gradient_clip_algorithm == "value"
            (clip_grad_value_ if by_value else clip_grad_norm_)(network.parameters.values(), limit)
        return loss

    for step in range(1, steps + 1):
        optimizer.step(closure)  # pyrefly: ignore[no-matching-overload]
        if not math.isfinite(trace.losses[-1]):
            break
        if step % AT_LEAST == 0 or step == steps:
            if network.single_label:
                with torch.no_grad():
                    trace.top1 = (network.logits(images).argmax(1) == targets).float().mean().item()
            if trace.overfit:
                break
    return trace


def one_batch(trace: Trace, images: int, batch_size: int) -> Finding:
    """Whether the batch was overfit: all its images are right, or its loss fell to a tenth."""
    first, last, steps = trace.losses[0], trace.losses[-1], counted(len(trace.losses), "step")
    right = "" if trace.top1 is None else f", top-1 {100 * trace.top1:.0f} %"
    count = counted(images, "image")
    finding = Finding("one batch", f"loss {first:.3f} to {last:.3g}{right} of {count} in {steps} by {trace.by}")
    # A learning rate for larger batches may be too high for this one.
    too_high = finding.warn if images < batch_size else finding.wrong
    if trace.overfit:
        return finding
    if not math.isfinite(last):
        too_high(f"the loss is {last} at step {len(trace.losses)}: a lower learning rate, or gradient_clip_val")
    elif last > 1.1 * first:
        too_high("it diverges: try a tenth of the learning rate")
    elif last > 0.9 * first:
        finding.wrong("it hardly moves: try ten times the learning rate, then look for frozen or detached layers")
    else:
        finding.wrong("it is not overfit yet: try another learning rate, more --steps, and look at the labels")
    return finding


def gradients(trace: Trace, network: Network) -> Finding:
    """Whether every trainable parameter got a gradient in some step."""
    unused = [name for name in network.parameters if name not in trace.largest]
    zero = [name for name, value in trace.largest.items() if value == 0]
    total, steps = len(network.parameters), counted(len(trace.losses), "step")
    reached = total - len(unused) - len(zero)
    finding = Finding("gradients", f"reach {reached} of {total} trainable tensors within {steps}")
    if unused:
        finding.wrong(f"no gradient for {first_few(unused)}: unused or detached; remove or freeze, for DDP stops at it")
    if trace.broken:
        finding.wrong(
            f"that of {first_few(trace.broken)} is not finite: look for a division, root or logarithm of zero"
        )
    if zero:
        finding.warn(f"that of {first_few(zero)} is zero at every step: it never learns; a dead or masked layer?")
    return finding


def parameter_groups(network: Network) -> Finding:
    """The optimizer's groups; parameters that none of them holds, or that are decayed and should not be."""
    groups = at_peak(network).param_groups
    names = {id(value): name for name, value in network.parameters.items()}
    decay: dict[int, float] = {}  # of each parameter that the optimizer holds
    details = []
    for group in groups:
        members, lr, weight_decay = group["params"], float(group["lr"]), group.get("weight_decay", 0.0)
        decay |= dict.fromkeys(map(id, members), weight_decay)
        count, example = sum(value.numel() for value in members), "".join(names.get(id(one), "") for one in members[:1])
        size = f"{counted(len(members), 'tensor')}, {counted(count, 'parameter')}"
        details.append(f"lr {lr:.3g}, weight decay {weight_decay:g}: {size} such as {example}")
    trained = sum(value.numel() for value in network.parameters.values())
    frozen = sum(value.numel() for value in network.model.parameters()) - trained
    numbers = f"{len(groups)}, {trained:,} parameters to train, {frozen:,} frozen"
    finding = Finding("groups", numbers, details=details[:GROUPS_SHOWN])
    if missing := [name for identity, name in names.items() if identity not in decay]:
        finding.wrong(f"the optimizer does not hold {first_few(missing)}: give it all the parameters it is handed")
    spared = decay_groups(network.model)[1]["params"]
    if decayed := [names[id(value)] for value in spared if decay.get(id(value))]:
        finding.warn(
            f"weight decay reaches norm layers or biases ({first_few(decayed)}): it shrinks what needs no shrinking; "
            "let the optimizer keep the groups it is handed"
        )
    return finding
