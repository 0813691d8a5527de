"""What an ``evaluation-val.json`` or ``evaluation-test.json`` holds, drawn as HTML that stands on its own."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from resnet18.report.intervals import wilson
from resnet18.report.markup import columns_of, cut, isolated, table, text
from resnet18.report.run_files import data_uri

MATRIX_CLASSES, PAIRS, LISTED = 50, 20, 40
COLUMNS = 18  # of a class name beside the matrix
SIDE = 300  # px, of the reliability diagram


def confusion(evaluation: dict[str, Any]) -> str:
    """Up to 50 classes a heat map, else the 20 pairs that are confused most often, as a table."""
    names, cells = evaluation["class_names"], evaluation["confusion"]
    totals = _totals(cells)
    wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])
    if len(names) > MATRIX_CLASSES:
        rows = [
            (isolated(names[true]), isolated(names[predicted]), f"{count:,}", f"{100 * count / totals[true]:.1f} %")
            for true, predicted, count in wrong[:PAIRS]
        ]
        return table(("true", "predicted", "images", "of the class"), rows, "pairs")
    side = 30 if len(names) <= 12 else 24 if len(names) <= 20 else 15  # px, of a cell
    labels = [cut(str(name), COLUMNS) for name in names]
    widest = max(columns_of(label) for label in labels)
    left, upright = 26 + 7 * widest, widest <= 3 and side > 15
    top = 40 if upright else 30 + 7 * widest
    worst = max((count / totals[true] for true, _, count in wrong), default=1)
    drawn = []
    for true, predicted, count in cells:
        x, y, share = left + side * predicted, top + side * true, count / totals[true]
        # The errors are measured by the greatest of them, and the right ones have another colour: else these, 20 times
        # as many, leave nothing to see of the errors.
        right = true == predicted
        kind, strength = ("right", share) if right else ("wrong", 0.12 + 0.88 * math.sqrt(share / worst))
        said = f"{names[true]} → {names[predicted]}: {count:,} of {totals[true]:,}"
        shown = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
        label = f'<text x="{x + side / 2}" y="{y + side / 2 + 4}" text-anchor="middle">{shown}</text>'
        drawn.append(
            f'<g><title>{text(said)}</title><rect class="{kind}" x="{x}" y="{y}" width="{side - 1}" '
            f'height="{side - 1}" style="--t:{strength:.3f}"/>{label if 6.5 * len(shown) < side - 2 else ""}</g>'
        )
    for position, label in enumerate(labels):
        middle, full = side * position + side / 2, f"{text(label)}<title>{text(names[position])}</title>"
        drawn.append(f'<text x="{left - 6}" y="{top + middle + 4}" text-anchor="end">{full}</text>')
        x, y = left + middle, top - 6
        turn = '"middle"' if upright else f'"start" transform="rotate(-90 {x} {y}) translate(0 4)"'
        drawn.append(f'<text x="{x}" y="{y}" text-anchor={turn}>{full}</text>')
    middle, whole = top + side * len(names) / 2, side * len(names) - 1
    axes = (
        f'<path class="field" d="M{left} {top}h{whole}v{whole}H{left}z"/>'
        f'<text class="quiet" x="{left}" y="12">predicted</text>'
        f'<text class="quiet" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">true</text>'
    )
    width, height = left + whole + 3, top + whole + 3
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    svg = f'<svg class="matrix" role="img" aria-label="confusion matrix" {size}>{axes}{"".join(drawn)}</svg>'
    return f'<div class="scroll" tabindex="0">{svg}</div>'


def _totals(cells: list[list[int]]) -> Counter[int]:
    """The images of each true class."""
    totals: Counter[int] = Counter()
    for true, _, count in cells:
        totals[true] += count
    return totals


def per_class(evaluation: dict[str, Any]) -> str:
    """Each class with its images, accuracy and 95 % interval; beyond 20 classes the worst first, and 40 of them."""
    names, cells = evaluation["class_names"], evaluation["confusion"]
    totals, right = _totals(cells), Counter({true: count for true, predicted, count in cells if true == predicted})
    found = [(right[label] / totals[label], label) for label in totals]
    many = len(found) > PAIRS
    found.sort(key=None if many else lambda one: one[1])
    rows = []
    for accuracy, label in found[:LISTED]:
        low, high = wilson(right[label], totals[label])
        bar = f"--v:{100 * accuracy:.1f}%;--low:{100 * low:.1f}%;--high:{100 * high:.1f}%"
        said = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        meter = f'<span class="bar" style="{bar}" title="{said}"><i></i></span>'
        rows.append((isolated(names[label]), f"{totals[label]:,}", f"{100 * accuracy:.1f} %", meter))
    rest, absent = found[LISTED:], len(names) - len(totals)
    notes = [f"{len(rest):,} more classes, from {100 * rest[0][0]:.1f} % up"] if rest else []
    notes += [f"{absent:,} without an image here"] if absent else []
    drawn = table(("class", "n", "accuracy", "with 95 % interval"), rows, "classes")
    return f'{drawn}<p class="note">{"; ".join(notes)}</p>' if notes else drawn


def reliability(evaluation: dict[str, Any]) -> str:
    """Accuracy against confidence in 15 bins, the images of each bin, and the expected calibration error."""
    bins, error = evaluation["calibration"]["bins"], evaluation["calibration"]["error"]
    images, most, wide = sum(count for count, *_ in bins), max(count for count, *_ in bins), SIDE / len(bins)
    left, strip = 40, 44  # px, beside the diagram for its labels, and below it for the images of each bin
    drawn = [f'<path class="ideal" d="M{left} {SIDE}L{left + SIDE} 0"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y, x = SIDE * (1 - tick), left + SIDE * tick
        drawn.append(f'<path class="grid" d="M{left} {y}H{left + SIDE}"/>')
        drawn.append(f'<text x="{left - 6}" y="{max(y + 4, 10)}" text-anchor="end">{100 * tick:.0f}</text>')
        anchor = "end" if tick == 1 else "middle"
        drawn.append(f'<text x="{x}" y="{SIDE + strip + 22}" text-anchor="{anchor}">{100 * tick:.0f}</text>')
    for position, (count, confidence, accuracy) in enumerate(bins):
        if not count:
            continue
        x, y, tall = left + wide * position, SIDE * (1 - accuracy), max(strip * count / most, 1)
        said = f"{count:,} images: confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} %"
        place, radius = left + SIDE * confidence, 3 + 6 * math.sqrt(count / images)  # px; the area goes by images
        drawn.append(
            f"<g><title>{said}</title>"
            f'<path class="gap" d="M{place:.1f} {SIDE * (1 - confidence):.1f}V{y:.1f}"/>'
            f'<circle class="bin" cx="{place:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
            f'<rect class="images" x="{x + 1:.1f}" y="{SIDE + 8 + strip - tall:.1f}" width="{wide - 2:.1f}" '
            f'height="{tall:.1f}"/></g>'
        )
    width, height = left + SIDE + 12, SIDE + strip + 44
    drawn.append(f'<text class="quiet" x="{left + SIDE}" y="{height - 4}" text-anchor="end">confidence, %</text>')
    drawn.append(f'<text class="quiet" x="{left + 6}" y="12">accuracy, %</text>')
    svg = (
        f'<svg class="reliability" role="img" aria-label="reliability diagram" viewBox="0 -10 {width} {height + 10}" '
        f'width="{width}">{"".join(drawn)}</svg>'
    )
    note = "the mean distance between confidence and accuracy"
    return f'{svg}<p class="note">calibration error {100 * error:.2f} %: {note}</p>'


def mistakes(evaluation: dict[str, Any], directory: Path) -> str:
    """The most confident mistakes of a run in its directory: picture, true → predicted, probability."""
    names, shown = evaluation["class_names"], ""
    for mistake in evaluation["mistakes"]:
        true, predicted = isolated(names[mistake["true"]]), isolated(names[mistake["predicted"]])
        source = data_uri(directory, str(mistake.get("picture")))
        image = f'<img src="{source}" alt=""/>' if source else '<p class="note">no picture</p>'
        shown += (
            f"<figure>{image}<figcaption>{true} → <b>{predicted}</b>, {100 * mistake['probability']:.1f} %"
            f'<br/><span class="quiet">{isolated(mistake["image"])}</span></figcaption></figure>'
        )
    return f'<div class="pictures">{shown}</div>' if shown else '<p class="note">None: all are right.</p>'
