"""What an evaluation found, counted once and kept in the run's directory for the report, W&B and notebooks."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from resnet18.errors import RunError
from resnet18.storage.records import EVALUATION_VERSION, PICTURES, evaluation_path, read_json, write_json

BINS = 15  # of equal width, as Guo et al. take, https://arxiv.org/abs/1706.04599


def counts(
    true: numpy.ndarray, predicted: numpy.ndarray, confidence: numpy.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Confusion and calibration of N images: int64 N, int64 N, and the predicted classes' probabilities, float N."""
    pairs, how_often = numpy.unique(true * len(class_names) + predicted, return_counts=True)
    confusion = [
        [*divmod(int(pair), len(class_names)), int(count)] for pair, count in zip(pairs, how_often, strict=True)
    ]
    number = numpy.clip(numpy.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    right = (true == predicted).astype(float)
    size, sure, hits = (numpy.bincount(number, weights, BINS) for weights in (None, confidence.astype(float), right))
    filled = numpy.maximum(size, 1)
    error = float(numpy.abs(sure - hits).sum() / max(len(true), 1))
    bins = [[int(n), round(p, 6), round(h, 6)] for n, p, h in zip(size, sure / filled, hits / filled, strict=True)]
    return {
        "images": len(true),
        "class_names": list(class_names),
        "confusion": confusion,
        "calibration": {"error": error, "bins": bins},
    }


def write_evaluation(
    directory: Path, part: str, found: dict[str, Any], mistakes: Sequence[tuple[dict[str, Any], bytes, str]]
) -> None:
    """Writes ``evaluation-PART.json``: with pictures of their own first, and without the last one's pictures after.

    Args:
        directory: The run's.
        part: ``val`` or ``test``.
        found: What :func:`counts` gives, with where it is from.
        mistakes: Of each image that was taken for another class what is said of it, its picture and that one's suffix.

    Raises:
        RunError: Where the directory can't be written.
    """
    path, folder = evaluation_path(directory, part), directory / PICTURES
    listed: list[dict[str, Any]] = []
    stale: set[str] = set()
    try:
        with contextlib.suppress(RunError, LookupError, TypeError):  # an earlier file may be broken
            stale = {mistake["picture"] for mistake in read_json(path).get("mistakes", ())}
        folder.mkdir(exist_ok=True)
        for number, (mistake, content, kind) in enumerate(mistakes):
            picture = folder / f"{part}-{found.get('step', 0)}-{number:02d}.{kind}"
            picture.write_bytes(content)
            listed.append({**mistake, "picture": picture.relative_to(directory).as_posix()})
        found = {"version": EVALUATION_VERSION, "part": part, **found}
        write_json(path, {**found, "mistakes": listed} if "confusion" in found else found)
        for name in stale - {mistake["picture"] for mistake in listed}:
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from None
