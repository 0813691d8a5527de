"""Predictions for images of any kind, as rows and as a gallery."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from resnet18.analysis.rows import Rows
from resnet18.data.feeds.given import views
from resnet18.report.contact_sheet import encoded
from resnet18.report.markup import isolated

BATCH, SHOWN = 64, 24  # images that go through the network at a time, and pictures in a notebook


class Predictions(Rows):
    """A row for each image, ``{"image", "class", "probability", "top": [[name, probability], …]}``.

    Of several classes an image, the class is their names joined by +, and the probability a list.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = (), pictures: Sequence[tuple[bytes, str]] = ()) -> None:
        super().__init__(rows)
        self.pictures = pictures  # of the first 24, as the network saw them: the content of a file, and its suffix

    def cells(self) -> tuple[list[str], list[list[str]]]:
        return Rows({**row, "top": ", ".join(map(share, row["top"]))} for row in self).cells()

    def _repr_html_(self) -> str:
        drawn = ""
        for row, (content, kind) in zip(self, self.pictures, strict=False):
            source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            others = [share(one) for one in row["top"] if one[0] != row["class"]][:2]
            drawn += (
                '<figure style="margin:0;width:136px;font-size:12px;overflow-wrap:anywhere">'
                f'<img src="{source}" alt="" style="height:96px;image-rendering:pixelated">'
                f"<figcaption><b>{isolated(decision(row))}</b><br>{'<br>'.join(map(isolated, others))}"
                f'<br><span style="opacity:.6">{isolated(row["image"])}</span></figcaption></figure>'
            )
        more = f"<p>and {len(self) - SHOWN:,} more</p>" if len(self) > SHOWN else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{drawn}</div>{more}'


def share(one: Sequence[Any]) -> str:
    """A class and its probability as they are read."""
    return f"{one[0]} {100 * one[1]:.1f} %"


def decision(row: dict[str, Any]) -> str:
    """What a row says of its image."""
    return row["class"] if isinstance(row["probability"], list) else share((row["class"], row["probability"]))


def predict(model: Any, x: Any, topk: int = 5) -> Predictions:
    """The model's predictions for what :func:`~resnet18.data.feeds.given.views` takes, in batches of 64."""
    rows: list[dict[str, Any]] = []
    pictures: list[tuple[bytes, str]] = []
    batch: list[tuple[str, Tensor]] = []
    for name, image in views(model, x):
        if batch and (len(batch) == BATCH or image.shape != batch[0][1].shape):
            rows += decided(model, batch, topk)
            batch = []
        batch.append((name, image))
        if len(pictures) < SHOWN:
            pictures.append(encoded(image))
    return Predictions([*rows, *decided(model, batch, topk)] if batch else rows, pictures)


@torch.no_grad()
def decided(model: Any, batch: Sequence[tuple[str, Tensor]], topk: int = 1) -> list[dict[str, Any]]:
    """A row for each name and view of an image; the views are of one size."""
    logits = model.eval()(torch.stack([image for _, image in batch]).to(model.device)).float()
    classes, probabilities = model.decide(logits)
    several, names, rows = classes.ndim == 2, model.class_names, []
    every = probabilities if several else logits.softmax(1)  # N×C
    best = every.topk(min(max(topk, 0), every.shape[1]))
    for number, (image, _) in enumerate(batch):
        found = classes[number].nonzero().flatten().tolist() if several else [int(classes[number])]
        sure = [round(float(one), 6) for one in (every[number, found] if several else probabilities[number, None])]
        ranked = zip(best.indices[number].tolist(), best.values[number].tolist(), strict=True)
        row = {"image": image, "class": "+".join(names[label] for label in found)}
        row |= {"probability": sure if several else sure[0]}
        rows.append({**row, "top": [[names[label], round(value, 6)] for label, value in ranked]})
    return rows
