"""The data as the network will get them: class balance, pixels, duplicates, and a picture."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from resnet18.data.base import ImageDataModule, Part
from resnet18.errors import counted

IMBALANCE = 10  # the largest class over the smallest: beyond, 91 % top-1 may mean that a class is never named
SAMPLE = 2048  # training images whose pixels are measured: their mean is then known to about 0.01
TOLERANCE = 0.1  # how far from 0 and 1: half of what the usual slip makes, the mean of the images' own deviations
STREAMED_AT_MOST = 4096  # images that are decoded from files to look for duplicates
SERIOUS = 0.01  # share of duplicates from which they may move top-1 by a whole point


@dataclass
class Finding:
    """What one check found."""

    name: str
    numbers: str  # what was measured
    level: Literal["ok", "warn", "wrong", "skip"] = "ok"  # skip: it could not be made
    advice: list[str] = field(default_factory=list)  # what it means and what to do
    details: Sequence[str] = ()  # lines below

    def warn(self, advice: str) -> None:
        self.level = "warn" if self.level == "ok" else self.level
        self.advice.append(advice)

    def wrong(self, advice: str) -> None:
        self.level = "wrong"
        self.advice.append(advice)


def first_few(names: Sequence[str], at_most: int = 3) -> str:
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def target_name(data: ImageDataModule, target: Tensor) -> str:
    """An image's class, or all of its classes, or its value."""
    if data.is_single_label:
        return data.class_names[int(target)]
    if tuple(target.shape) == (data.num_classes,):
        return " + ".join(data.class_names[label] for label in target.nonzero().flatten().tolist())
    return f"{target.item():g}" if target.numel() == 1 else "×".join(map(str, target.shape))


def balance(data: ImageDataModule, train: Tensor, val: Tensor) -> Finding:
    """How many images train and validate, and how they spread over the classes, by the targets of both."""
    class_names = data.class_names
    sizes = f"{len(train):,} to train, {len(val):,} to validate, {counted(len(class_names), 'class name')}"
    if not data.is_single_label:
        kind = f"{train.dtype} of {'×'.join(map(str, train.shape))}".removeprefix("torch.")
        return Finding("classes", f"{sizes}; classes are counted where targets are class numbers, not {kind}", "skip")
    counts, val_counts = (part.bincount(minlength=len(class_names)) for part in (train, val))
    low, high = int(counts.argmin()), int(counts.argmax())
    few, many = int(counts[low]), int(counts[high])
    ends = f"{few:,} ({class_names[low]}) to {many:,} ({class_names[high]})" if few < many else f"{few:,}"
    finding = Finding("classes", f"{sizes}, {ends} training images in each")
    if many > IMBALANCE * few:
        finding.warn(
            f"the largest class has {many / max(few, 1):.0f} times the images of the smallest: top-1 hides the small "
            "ones; look at the score of each class, and weight or resample"
        )
    if unseen := [class_names[label] for label in (val_counts == 0).nonzero().flatten().tolist()]:
        finding.warn(
            f"no validation image of {first_few(unseen)}: val/top1 says nothing about it; raise data.val_share"
        )
    return finding


def pixels(data: ImageDataModule) -> Finding:
    """Measured mean and standard deviation of each channel, against those that normalise the images."""
    histogram = torch.zeros(data.input_size[0], 256, dtype=torch.int64)
    count = blank = 0
    for images, *_ in data.evaluation_dataloader("train", at_most=SAMPLE):
        for channel, values in enumerate(images.transpose(0, 1)):
            histogram[channel] += values.flatten().bincount(minlength=256).cpu()
        flat = images.flatten(2)  # B×C×HW
        blank += int((flat.amin(2) == flat.amax(2)).all(1).sum())
        count += len(images)
    share = histogram.double() / histogram.sum(1, keepdim=True)
    values = torch.arange(256).double() / 255
    mean = share @ values
    std = (share * (values - mean[:, None]).square()).sum(1).sqrt()
    given_mean, given_std = torch.tensor(data.mean).double(), torch.tensor(data.std).double()
    shift, scale = (mean - given_mean) / given_std, std / given_std
    statistics = f"mean {_vector(mean)}, std {_vector(std)}, normalised {_vector(shift)}, {_vector(scale)}"
    finding = Finding("pixels", f"{counted(count, 'image')}, {statistics}")
    if blank == count:
        finding.wrong("every image is of one colour: look at the picture, and at how the files are read")
    elif flat_channels := [str(channel) for channel in (std == 0).nonzero().flatten().tolist()]:
        finding.wrong(f"channel {first_few(flat_channels)} has the same value everywhere: it tells nothing")
    elif shift.abs().max() > TOLERANCE or (scale - 1).abs().max() > TOLERANCE:
        finding.warn(
            f"more than {TOLERANCE} from 0 and 1: {type(data).__name__} should have mean: {_vector(mean)}, "
            f"std: {_vector(std)}, unless pretrained weights want others"
        )
    if 0 < blank < count:
        finding.warn(f"{blank:,} of {count:,} images are of one colour: see whether they belong")
    return finding


def duplicates(data: ImageDataModule, train: Tensor, val: Tensor) -> Iterator[Finding]:
    """Images that both train and validate, and images that train with two targets; equal in every pixel."""
    if data.feed != "resident" and len(train) + len(val) > STREAMED_AT_MOST:
        yield Finding("leaks", f"not compared: {counted(len(train) + len(val), 'image')} in files", "skip")
        return
    first: dict[bytes, int] = {}
    twins = [(first.setdefault(digest, position), position) for digest, position in _digests(data, "train")]
    leaks = [(first[digest], position) for digest, position in _digests(data, "val") if digest in first]
    finding = Finding("leaks", f"{len(leaks):,} of {len(val):,} validation images, each against {len(train):,}")
    if leaks:
        shown = first_few([f"{position} (training image {twin})" for twin, position in leaks])
        report = finding.wrong if len(leaks) > SERIOUS * len(val) else finding.warn
        report(f"validation image {shown} also trains, so val/top1 flatters; keep all copies of an image on one side")
    yield finding

    repeated = sum(one != other for one, other in twins)
    conflicts = [pair for pair in twins if not torch.equal(train[pair[0]], train[pair[1]])]
    numbers = f"{len(conflicts):,} of {len(train):,} training images under two labels, {repeated:,} there twice"
    finding = Finding("labels", numbers)
    if conflicts:
        named = [[f"{one} ({target_name(data, train[one])})" for one in pair] for pair in conflicts]
        shown = first_few([" = ".join(pair) for pair in named])
        report = finding.wrong if len(conflicts) > SERIOUS * len(train) else finding.warn
        report(f"training image {shown}: one image under two names can't be learned")
    yield finding


def _digests(data: ImageDataModule, part: Part) -> Iterator[tuple[bytes, int]]:
    for images, _, positions in data.evaluation_dataloader(part):
        rows = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # B×H×W×C
        for row, position in zip(rows, positions.tolist(), strict=True):
            yield hashlib.blake2b(row, digest_size=16).digest(), position


def _vector(values: Tensor) -> str:
    return f"[{', '.join(f'{value:z.3f}' for value in values.tolist())}]"
