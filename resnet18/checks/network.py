"""The untrained network: its loss before the first step, and whether the images of a batch mind their own business."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from textwrap import shorten

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

from resnet18.checks import Finding
from resnet18.classifier import Classifier
from resnet18.names import counted

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
