"""One batch overfitted by the configured optimizer: what can't do that can't learn more, and it takes seconds.

The learning rate is the configured peak from the first step on; schedule, mixing, label smoothing and dropout are off,
and the batch stays the same, so that nothing but the network, the optimizer and the labels can be at fault.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchvision.ops import StochasticDepth

from resnet18.checks import Finding, some
from resnet18.checks.network import Batch, Network
from resnet18.names import counted
from resnet18.optimization import decay_groups

LEARNT = 0.1
"""Cross-entropy that counts as overfitted: nine tenths of the probability on the right class."""
AT_LEAST = 5
"""Steps that are always taken: behind two layers that start at zero, a gradient appears in the third."""
GROUPS_SHOWN = 6

DROPPING = (nn.modules.dropout._DropoutNd, StochasticDepth)


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
