"""The untrained network: its loss before the first step, and whether the images of a batch mind their own business."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import shorten

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchvision.ops import StochasticDepth

from resnet18.classifier import Classifier
from resnet18.commands.check_data import Finding, some
from resnet18.errors import counted
from resnet18.optimization import decay_groups

Batch = tuple[Tensor, Tensor]

UNSURE = 1.0
"""How far above ln(classes) the first loss may lie. Gaussian logits of standard deviation s raise it by s²/2, so this
is s = 1.4; a fresh linear layer over features of unit size gives 0.6, and 0.2."""
CONFIDENT = 4.0
"""And how far before it is wrong, s = 2.8: the first part of the training would go into unlearning the start."""
KNOWING = 0.3
"""How far below: a network that has seen no label can't know a quarter of what there is to know."""
SEPARATE = 4
"""Images that are looked at for mixing, every one against every other."""
JOLT = 0.02
"""Standard deviation of what is added to the weights for that, about that of a He-initialised 3×3×512 convolution."""


class Network:
    """A classifier where the configuration trains it: on its device, in its precision, without a Trainer around it."""

    def __init__(self, model: Classifier, trainer: Trainer) -> None:
        self.device = trainer.strategy.root_device
        self.precision = trainer.precision_plugin
        self.precision.convert_module(model)  # in place
        self.model: Classifier = model.to(self.device)
        self.backbone = model.backbone

    def to_device(self, batch: Batch, at_most: int) -> Batch:
        images, labels = batch[:2]
        return images[:at_most].to(self.device), labels[:at_most].to(self.device)

    def logits(self, images: Tensor) -> Tensor:
        """Of uint8 images, or of what :meth:`Classifier.normalize` makes of them; float32, N×num_classes.

        Raises:
            ValueError: Where the backbone's answer has another shape.
        """
        with self.precision.forward_context():
            logits = self.backbone(self.model.normalize(images) if images.dtype == torch.uint8 else images)
        expected = (len(images), self.model.num_classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            given = "×".join(map(str, logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"expected logits of {expected[0]}×{expected[1]}, the backbone gives {given}")
        return logits.float()

    @contextmanager
    def jolted(self) -> Iterator[None]:
        """Every weight moved a little, and put back: layers that start at zero let nothing through, good or bad."""
        kept = {name: value.clone() for name, value in self.backbone.state_dict().items()}
        with torch.no_grad():
            for parameter in self.backbone.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=JOLT)
        try:
            yield
        finally:
            self.backbone.load_state_dict(kept)


def failure(images: Tensor, error: Exception) -> Finding:
    """What is left to say where the network can't take a batch, or can't be trained on it."""
    shape = "×".join(map(str, images.shape))
    return Finding.of("network", f"fails on a batch of {shape}", wrong=[shorten(str(error), 300)])


def loss_at_start(network: Network, batches: Iterable[Batch]) -> Finding:
    """Plain cross-entropy of the untrained network in training mode, against that of knowing nothing, ln(classes)."""
    network.backbone.train()
    expected = math.log(network.model.num_classes)
    losses, sizes = [], []
    with torch.no_grad():
        for images, labels in batches:
            losses.append(F.cross_entropy(network.logits(images), labels))
            sizes.append(len(labels))
    loss = sum(size * value.item() for size, value in zip(sizes, losses, strict=True)) / sum(sizes)
    known = f"{expected:.3f} = ln {network.model.num_classes} for knowing nothing"
    numbers = f"{loss:.3f}, and {known}; {counted(sum(sizes), 'image')}"
    wrong, warn = [], []
    if not math.isfinite(loss):
        wrong.append("not finite before the first step: look at the initialisation, and at the precision")
    elif loss > expected + UNSURE:
        said = f"{loss - expected:.1f} above: the network is sure of what it can't know; start its last layer smaller"
        (wrong if loss > expected + CONFIDENT else warn).append(said)
    elif loss < (1 - KNOWING) * expected:
        warn.append(
            "below: it knows labels before it has seen any; fine for trained weights, else they leak into the input"
        )
    return Finding.of("first loss", numbers, wrong, warn)


def independence(network: Network, images: Tensor) -> Finding:
    """Whether an image's logits, in evaluation mode, depend on the other images of its batch: by their gradients."""
    name = "independence"
    images = images[:SEPARATE]
    if len(images) < 2:
        return Finding("skip", name, "needs two images in a batch")
    pixels = network.model.normalize(images).detach().requires_grad_()
    network.backbone.eval()
    try:
        with network.jolted():
            logits = network.logits(pixels * 1)  # no leaf: the first layer may work in place
            weights = torch.randn_like(logits[0])  # a plain sum may cancel, as that of probabilities does
            found = [torch.autograd.grad(weights @ row, pixels, retain_graph=True, allow_unused=True) for row in logits]
    except RuntimeError as error:
        return Finding("skip", name, f"the backbone gives the images no gradient: {shorten(str(error), 120)}")
    finally:
        network.backbone.train()
    rows = [gradient for (gradient,) in found if gradient is not None]
    if not rows:
        return Finding("skip", name, "no gradient reaches the images: the backbone rounds, compares or detaches them")
    size = torch.stack(rows).flatten(2).abs().amax(2).cpu().double()  # of image j's gradient for the logits of image i
    own, other = size.diag(), size - size.diag().diag()
    others = counted(len(images) - 1, "other")
    numbers = f"gradient of an image's logits: {own.median():.1e} for itself, {other.max():.1e} for {others}"
    wrong = []
    if not size.isfinite().all():
        wrong.append("gradients with respect to the images are not finite: look for a division or root of zero")
    elif other.max() > 0:
        wrong.append(
            "images of a batch change each other's logits: look for a view, reshape or permute that moves the batch's "
            "dimension, or a norm over the batch in evaluation mode"
        )
    elif own.min() == 0:
        wrong.append("the logits do not depend on the image: look for a detach, an integer cast or a dead layer")
    return Finding.of(name, numbers, wrong)


LEARNT = 0.1
"""Cross-entropy that counts as overfitted: nine tenths of the probability on the right class."""
AT_LEAST = 5
"""Steps that are always taken: behind two layers that start at zero, a gradient appears in the third."""
GROUPS_SHOWN = 6

DROPPING = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    StochasticDepth,
)


@dataclass
class Memorised:
    """How the overfitting of one batch went."""

    by: str = ""
    """The optimizer and its learning rate, in words."""
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    top1: float = 0.0
    learnt: bool = False
    untouched: list[str] = field(default_factory=list)
    """Parameters that no gradient was computed for."""
    still: list[str] = field(default_factory=list)
    """Parameters whose gradient was zero at every step."""
    broken: list[str] = field(default_factory=list)
    """Parameters whose very first gradient was not finite."""


def memorise(
    network: Network, optimizer: Optimizer, batch: Batch, steps: int, clip: tuple[float, str] | None
) -> Memorised:
    """Takes up to ``steps`` optimizer steps on one batch.

    Args:
        network: It is changed.
        optimizer: See :func:`at_peak`.
        batch: uint8 images and int64 labels, on the network's device.
        steps: The most to take; it ends when the batch is learnt or the loss is not finite.
        clip: The Trainer's ``gradient_clip_val`` and algorithm.
    """
    images, labels = batch
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    rate = " to ".join(f"{value:.3g}" for value in dict.fromkeys((min(rates), max(rates))))
    done = Memorised(by=f"{type(optimizer).__name__} at lr {rate}")
    parameters = {name: value for name, value in network.backbone.named_parameters() if value.requires_grad}
    moved: dict[str, Tensor] = {}
    network.backbone.train()
    for module in network.backbone.modules():
        if isinstance(module, DROPPING):
            module.eval()

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = network.logits(images)
        loss = F.cross_entropy(logits, labels)
        done.losses.append(loss.item())
        done.top1 = (logits.argmax(1) == labels).float().mean().item()
        loss.backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                moved[name] = moved.get(name, 0) + parameter.grad.abs().max()
        if done.steps == 0:
            done.broken = [name for name, value in moved.items() if not value.isfinite()]
        if clip:
            limit, algorithm = clip
            norm = torch.nn.utils.clip_grad_norm_ if algorithm == "norm" else torch.nn.utils.clip_grad_value_
            norm(parameters.values(), limit)
        return loss

    while done.steps < steps:
        optimizer.step(closure)  # pyrefly: ignore[no-matching-overload]
        done.steps += 1
        done.learnt = done.losses[-1] < LEARNT and done.top1 == 1
        if not math.isfinite(done.losses[-1]) or (done.learnt and done.steps >= AT_LEAST):
            break
    done.untouched = [name for name in parameters if name not in moved]
    done.still = [name for name, value in moved.items() if value == 0]
    return done


def by_heart(
    network: Network, batch: Batch, steps: int, clip: tuple[float, str] | None, batch_size: int
) -> tuple[Memorised, Memorised | None]:
    """:func:`memorise` at the configured learning rate, and if that fails for a batch smaller than the configured one,
    again from the start at the rate of the linear rule (Goyal et al., https://arxiv.org/abs/1706.02677): a rate for
    batches of 500 may be too much for 32 images."""
    count = len(batch[1])
    kept = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    done = memorise(network, at_peak(network), batch, steps, clip)
    if done.learnt or count >= batch_size:
        return done, None
    network.backbone.load_state_dict(kept)
    return done, memorise(network, at_peak(network, count / batch_size), batch, steps, clip)


def at_peak(network: Network, scale: float = 1.0) -> Optimizer:
    """The configured optimizer at the highest learning rate that its schedule gives, times ``scale``."""
    optimizer = network.model.make_optimizer()
    network.model.make_schedule(optimizer, total_steps=100)  # for its peak only: it is never stepped
    for group in optimizer.param_groups:
        group["lr"] = scale * group.get("max_lr", group.get("initial_lr", group["lr"]))
    return optimizer


def one_batch(done: Memorised, again: Memorised | None, images: int) -> Finding:
    """Whether the batch was learnt; takes what :func:`by_heart` gives and the number of images."""
    first, last = done.losses[0], done.losses[-1]
    count = counted(images, "image")
    numbers = (
        f"loss {first:.3f} to {last:.3g}, top-1 {100 * done.top1:.0f} % of {count} in {counted(done.steps, 'step')}"
    )
    numbers = f"{numbers} by {done.by}"
    if done.learnt:
        return Finding.of("one batch", numbers)
    if again is not None and again.learnt:
        said = f"learnt in {counted(again.steps, 'step')} by {again.by}, the linear rule's for {count}: "
        return Finding.of(
            "one batch", numbers, warn=[f"{said}the rate is high, and wants a warm-up and its large batch"]
        )
    if not math.isfinite(last):
        cause = (
            f"the loss is {last} at step {done.steps}: a lower learning rate, or gradient_clip_val; else the precision"
        )
        return Finding.of("one batch", numbers, wrong=[cause])
    if last >= first:
        cause = "it diverges: try a tenth of the learning rate"
    elif last > 0.9 * first:
        cause = "it hardly moves: try ten times the learning rate, then look for frozen or detached layers"
    else:
        cause = "it is under way: try another learning rate or more --steps, and look at the labels in the picture"
    goal = f"loss below {LEARNT} and top-1 100 % were to be reached"
    return Finding.of("one batch", numbers, wrong=[f"{goal}; {cause}"])


def gradients(done: Memorised, network: Network) -> Finding:
    """Whether every trainable parameter was reached by a gradient in some step."""
    trainable = [value for value in network.backbone.parameters() if value.requires_grad]
    wrong, warn = [], []
    if done.untouched:
        wrong.append(
            f"no gradient for {some(done.untouched)}: unused or detached; remove or freeze, for DDP stops at it"
        )
    if done.broken:
        wrong.append(
            f"the gradient of {some(done.broken)} is not finite: look for a division, root or logarithm of zero"
        )
    if done.still:
        warn.append(
            f"the gradient of {some(done.still)} is zero at every step: it never learns; a dead or masked layer?"
        )
    reached = len(trainable) - len(done.untouched) - len(done.still)
    numbers = f"reach {reached} of {len(trainable)} trainable tensors within {counted(done.steps, 'step')}"
    return Finding.of("gradients", numbers, wrong, warn)


def parameter_groups(network: Network, optimizer: Optimizer) -> Finding:
    """The optimizer's groups, with what is decayed and should not be, and what no group holds."""
    names = {id(value): name for name, value in network.backbone.named_parameters()}
    spared = {id(value) for value in decay_groups(network.backbone)[1]["params"]}
    table = [("tensors", "parameters", "lr", "weight decay", "such as")]
    held: set[int] = set()
    decayed: list[str] = []
    for group in optimizer.param_groups:
        members = [value for value in group["params"] if id(value) in names]
        held |= {id(value) for value in members}
        decay = group.get("weight_decay", 0.0)
        if decay:
            decayed += [names[id(value)] for value in members if id(value) in spared]
        count = sum(value.numel() for value in members)
        example = names[id(members[0])] if members else ""
        table.append((str(len(members)), f"{count:,}", f"{float(group['lr']):.3g}", f"{decay:g}", example))
    if len(table) > GROUPS_SHOWN + 1:
        table[GROUPS_SHOWN:] = [("…", "…", "…", "…", f"{counted(len(table) - GROUPS_SHOWN, 'group')} more")]
    left = [names[id(p)] for p in network.backbone.parameters() if p.requires_grad and id(p) not in held]
    frozen = [p for p in network.backbone.parameters() if not p.requires_grad]
    trained = sum(p.numel() for p in network.backbone.parameters()) - sum(p.numel() for p in frozen)
    numbers = (
        f"{len(optimizer.param_groups)}, {trained:,} parameters to train, {sum(p.numel() for p in frozen):,} frozen"
    )
    wrong, warn = [], []
    if left:
        wrong.append(
            f"the optimizer does not hold {some(left)}: so it never learns; give the optimizer all it is handed"
        )
    if decayed:
        warn.append(
            f"weight decay reaches norm layers or biases ({some(decayed)}): it shrinks what needs no shrinking; "
            "let the optimizer keep the groups it is handed"
        )
    return Finding.of("groups", numbers, wrong, warn, table)
