"""Runs of one configuration with several seeds: read from their directories, summed up, compared with others' in pairs.

Every finished run of a group counts, whichever seeds were asked for: a choice among them would be a best of n.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnet18.errors import RunError, UsageError, hint, written
from resnet18.report.intervals import AT_LEAST, paired, student, wilson
from resnet18.storage.overview import Overview, differences, leaves, overview, short_names, shown
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
    """The runs ``seed-1``, ``seed-2``, … of a group, by their seeds; none where there is no such run."""
    runs = [overview(config.parent) for config in group.glob(f"seed-*/{CONFIG}")]
    return {run.config[SEED]: run for run in sorted(runs, key=lambda run: run.config[SEED])}


def finished(group: Path) -> dict[int, Overview]:
    """The runs of a group that are finished, by their seeds."""
    return {seed: run for seed, run in read_group(group).items() if run.state == FINISHED}


def protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal where scores are compared: images, validation share, evaluation, the choice of the epoch."""
    return {
        key: value
        for key, value in leaves(config).items()
        if key.startswith(PROTOCOL) or (key.split(".")[0] == "data" and key.removeprefix("data.") not in TRAINS_ONLY)
    }


def check_protocol(here: Mapping[str, Any], there: Mapping[str, Any], name: str) -> None:
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
    """The given metric, or UsageError if the runs lack it; else the test set's, or untested what chose their epochs."""
    runs = list(runs)
    tested, monitor = {name for run in runs for name in run.test}, runs[0].monitor
    if given is not None and given not in (known := {*tested, monitor}):
        raise UsageError(f"--metric: these runs have no {given}, but {', '.join(sorted(known))}{hint(given, known)}")
    wanted = ("test/top1", f"test/{monitor.removeprefix('val/')}", *sorted(tested))
    return given or next((name for name in wanted if name in tested), monitor)


def sum_up(group: Path, metric: str | None = None, against: Path | None = None) -> dict[str, Any]:
    """What ``seeds.json`` says of a group: each seed, the mean with its interval, and the test set's own error.

    Raises:
        UsageError: For a metric that its runs do not have, and another group that can't be compared.
        RunError: For runs that can't be read, or were split differently.
    """
    runs, done = read_group(group), finished(group)
    found: dict[str, Any] = {"version": 1, "group": group.name, "n": 0, "metric": metric}
    values = dict[int, float]()
    if done:
        metric, first = choose_metric(done.values(), metric), next(iter(done.values()))
        images = read_json(evaluation_path(first.directory, metric.partition("/")[0])).get("images")
        found |= {"metric": metric, "test_images": images, "test_error": None}
        found |= {"split_hash": _split(done, group.name), "protocol": protocol(first.config)}
        if values := _values(done, metric):
            found |= asdict(student(list(values.values())))
            if images and _is_share(metric):
                found["test_error"] = wilson(found["mean"] * images, images)
            if against is not None:
                found["against"] = _compare(done, against, metric)
    found["per_seed"] = [
        {
            **{"seed": seed, "directory": run.name, "state": run.state, "value": values.get(seed)},
            **{"epochs": run.epochs, "best": run.best, "best_epoch": run.best_epoch, "test": run.test},
        }
        for seed, run in runs.items()
    ]
    found["git"] = sorted({(run.provenance.get("git") or {}).get("sha") or "unknown" for run in runs.values()})
    return found


def _values(runs: Mapping[int, Overview], metric: str) -> dict[int, float]:
    values = {seed: run.best if metric == run.monitor else run.test.get(metric) for seed, run in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def _split(runs: Mapping[int, Overview], name: str) -> str | None:
    """The fingerprint of the split that all runs have."""
    splits = {run.provenance.get("split_hash"): seed for seed, run in runs.items()}
    if len(splits) > 1:
        shown = ", ".join(f"{split} in seed-{seed}" for split, seed in splits.items())
        raise RunError(f"{name}: its runs were trained on different images, split {shown}")
    return next(iter(splits))


def _compare(runs: Mapping[int, Overview], other: Path, metric: str) -> dict[str, Any]:
    """Compares two groups, seed by seed."""
    theirs = finished(other)
    ours, their_values = _values(runs, metric), _values(theirs, metric)
    if not (seeds := [seed for seed in ours if seed in their_values]):
        raise RunError(f"--against: {other.name} has no finished run with {metric} of the same seeds")
    one, another = runs[seeds[0]], theirs[seeds[0]]
    check_protocol(one.config, another.config, other.name)
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


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What ``seeds.json`` says, for the terminal: each seed, the mean, its two errors, and the other group."""
    metric, part = found["metric"], str(found["metric"]).partition("/")[0]
    yield f"{found['group']}  {metric}{'' if part == 'test' else ': there are no test scores'}"
    for one in found["per_seed"]:
        yield f"  seed {one['seed']:<4} {one['state'] if one['value'] is None else written(metric, one['value'])}"
    if not found["n"]:
        return
    mean, least, most = (written(metric, found[name]) for name in ("mean", "min", "max"))
    spread = "" if found["sd"] is None else f"  sd {written(metric, found['sd'])}"
    yield f"  mean      {mean}{spread}  min {least}  max {most}  n {found['n']}"
    yield _over_seeds(metric, found["ci95"], written)
    if found["test_error"]:
        images = f"{found['test_images']:,} {part} images"
        yield f"  over images  {_interval(metric, found['test_error'], written)} for the {images}, Wilson"
        yield "  These are two errors: more seeds narrow the first, and only more images the second."
    if other := found.get("against"):
        yield ""
        yield from _pairs(metric, other)


def _pairs(metric: str, other: Mapping[str, Any]) -> Iterator[str]:
    names = short_names(other["differences"])
    changed = [f"{names[key]} {shown(here)}, not {shown(there)}" for key, (here, there) in other["differences"].items()]
    yield f"against {other['group']}, seed by seed: {'; '.join(changed) or 'no option differs'}"
    for side, place in (("only_here", "here"), ("only_there", "there")):
        if other[side]:
            yield f"  left out     seed {', '.join(map(str, other[side]))}, only {place}"
    yield f"  difference   {_signed(metric, other['mean_difference'])}  n {other['n']}"
    yield _over_seeds(metric, other["ci95"], _signed)
    if other["p"] is not None:
        yield f"  t-test       p = {other['p']:.4f}"
    if other["sign_flip_p"] is not None:
        least = f"{other['n']} pairs can't give less than {other['floor']:.4g}"
        yield f"  sign flips   p = {other['sign_flip_p']:.4f}, exact; {least}"


def _is_share(metric: str) -> bool:
    return metric.rpartition("/")[2].startswith("top")


def _signed(metric: str, value: float) -> str:
    return f"{100 * value:+.2f} points" if _is_share(metric) else f"{value:+.4f}"


def _over_seeds(metric: str, ends: Sequence[float] | None, form: Callable[[str, float], str]) -> str:
    if ends is None:
        return f"  There is no interval below {AT_LEAST} seeds."
    return f"  over seeds   {_interval(metric, ends, form)} of the mean, Student's t"


def _interval(metric: str, ends: Sequence[float], form: Callable[[str, float], str]) -> str:
    low, high = (form(metric, end) for end in ends)
    return f"{low.partition(' ')[0]} to {high}: 95 % interval"
