"""Runs of one configuration with several seeds: read from their directories, summed up, compared with others' in pairs.

Every finished run of a group counts, whichever seeds were asked for: a choice among them would be a best of n.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnet18.errors import RunError, UsageError, hint
from resnet18.report.intervals import paired, student, wilson
from resnet18.storage.overview import Overview, differences, leaves, overview
from resnet18.storage.records import CONFIG, evaluation_path, read_json
from resnet18.storage.status import FINISHED

SEEDS = "seeds.json"
SEED = "seed_everything"
# What an option of the data source does to the training alone; the root is left out, as the split's hash tells images.
TRAINS_ONLY = {
    *("root", "batch_size", "eval_batch_size", "translate", "flip", "cutout", "crop", "policy", "magnitude", "erasing"),
    *("first_size", "growth", "mean", "std", "feed", "resident_limit_gb", "num_workers", "cache_dir"),
}
PROTOCOL = ("best.monitor", "best.mode", "model.metrics", "trainer.limit_val_batches", "trainer.limit_test_batches")


def read_group(group: Path) -> dict[int, Overview]:
    """The runs ``seed-1``, ``seed-2``, … of a group, by their seeds; none where there is no such run.

    Raises:
        RunError: For a run that can't be read, or was trained with another seed than its name says.
    """
    found = dict[int, Overview]()
    for config in group.glob(f"seed-*/{CONFIG}"):
        if match := re.fullmatch(r"seed-(\d+)", config.parent.name):
            run = found[int(match[1])] = overview(config.parent)
            if (seed := run.config.get(SEED)) != int(match[1]):
                raise RunError(f"{config}: {SEED} should be {match[1]}, after the directory's name, not {seed}")
    return dict(sorted(found.items()))


def protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal where scores are compared: images, validation share, evaluation, the choice of the epoch."""
    return {
        key: value
        for key, value in leaves(config).items()
        if key.startswith(PROTOCOL) or (key.split(".")[0] == "data" and key.removeprefix("data.") not in TRAINS_ONLY)
    }


def refuse_other_protocol(here: Mapping[str, Any], there: Mapping[str, Any], name: str) -> None:
    """Raises UsageError for a group whose protocol is another; a direction that is not yet known is not compared."""
    one, other = protocol(here), protocol(there)
    unlike = [
        f"{key} is {one.get(key)} here and {other.get(key)} there"
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key) and not (key == "best.mode" and one.get(key) is None)
    ]
    if unlike:
        raise UsageError(f"--against: {name} can't be compared, its scores were reached otherwise: {'; '.join(unlike)}")


def choose_metric(runs: Iterable[Overview], given: str | None) -> str:
    """The metric that is summed up: the test set's, or of runs that were not tested the one that chose their epochs.

    Raises:
        UsageError: For a given metric that they do not have.
    """
    runs = list(runs)
    tested, monitor = {name for run in runs for name in run.test}, runs[0].monitor
    if given is not None and given not in (known := {*tested, monitor}):
        raise UsageError(f"--metric: these runs have no {given}, but {', '.join(sorted(known))}{hint(given, known)}")
    wanted = (given, "test/top1", f"test/{monitor.removeprefix('val/')}", *sorted(tested))
    return given or next((name for name in wanted if name in tested), monitor)


def sum_up(group: Path, metric: str | None = None, against: Path | None = None) -> dict[str, Any]:
    """What ``seeds.json`` says of a group: each seed, the mean with its interval, and the test set's own error.

    Raises:
        UsageError: For a metric that its runs do not have, and another group that can't be compared.
        RunError: For runs that can't be read, or were split differently.
    """
    runs = read_group(group)
    finished = {seed: run for seed, run in runs.items() if run.state == FINISHED}
    found: dict[str, Any] = {"version": 1, "group": group.name, "n": 0, "metric": metric}
    if finished:
        first = next(iter(finished.values()))
        metric = choose_metric(finished.values(), metric)
        values = _values(finished, metric)
        images = read_json(evaluation_path(first.directory, metric.partition("/")[0])).get("images")
        found |= {"metric": metric, **(asdict(student(list(values.values()))) if values else {})}
        found |= {"test_images": images, "test_error": _test_error(metric, found.get("mean"), images)}
        found |= {"split_hash": _split(finished, group.name), "protocol": protocol(first.config)}
        if against is not None and values:
            found["against"] = _compare(finished, against, metric)
    found["per_seed"] = [
        {
            **{"seed": seed, "directory": run.name, "state": run.state, "value": _value(run, metric)},
            **{"epochs": run.epochs, "best": run.best, "best_epoch": run.best_epoch, "test": run.test},
        }
        for seed, run in runs.items()
    ]
    found["git"] = sorted({(run.provenance.get("git") or {}).get("sha") or "unknown" for run in runs.values()})
    return found


def _value(run: Overview, metric: str | None) -> float | None:
    if run.state != FINISHED or metric is None:
        return None
    return run.best if metric == run.monitor else run.test.get(metric)


def _values(runs: Mapping[int, Overview], metric: str) -> dict[int, float]:
    return {seed: value for seed, run in runs.items() if (value := _value(run, metric)) is not None}


def _split(runs: Mapping[int, Overview], name: str) -> str | None:
    """The fingerprint of the split that all runs have."""
    splits = {run.provenance.get("split_hash"): seed for seed, run in runs.items()}
    if len(splits) > 1:
        shown = ", ".join(f"{split} in seed-{seed}" for split, seed in splits.items())
        raise RunError(f"{name}: its runs were trained on different images, split {shown}")
    return next(iter(splits))


def _test_error(metric: str, mean: float | None, images: int | None) -> list[float] | None:
    """Wilson's interval of an accuracy by the number of images that it was measured on."""
    if not images or mean is None or not metric.rpartition("/")[2].startswith("top"):
        return None
    return list(wilson(mean * images, images))


def _compare(runs: Mapping[int, Overview], other: Path, metric: str) -> dict[str, Any]:
    """Compares two groups, seed by seed."""
    theirs = {seed: run for seed, run in read_group(other).items() if run.state == FINISHED}
    ours, their_values = _values(runs, metric), _values(theirs, metric)
    if not (seeds := [seed for seed in ours if seed in their_values]):
        raise RunError(f"--against: {other.name} has no finished run with {metric} of the same seeds")
    one, another = runs[seeds[0]], theirs[seeds[0]]
    refuse_other_protocol(one.config, another.config, other.name)
    if (here := _split(runs, "this group")) != (there := _split(theirs, other.name)):
        raise RunError(f"--against: {other.name} was trained on other images: its split is {there}, here it is {here}")
    pairs = asdict(paired([ours[seed] for seed in seeds], [their_values[seed] for seed in seeds]))
    changed = differences([one.config, another.config])
    return {
        **{"group": other.name, "seeds": seeds, "mean_difference": pairs.pop("mean"), **pairs},
        "only_here": [seed for seed in ours if seed not in their_values],
        "only_there": [seed for seed in their_values if seed not in ours],
        "differences": {key: row for key, row in changed.items() if key != SEED},
    }
