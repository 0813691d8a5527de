"""What ``seeds.json`` says, in lines for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from resnet18.errors import written
from resnet18.report.intervals import AT_LEAST
from resnet18.storage.overview import short_names, shown


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Each seed, the mean with its interval, the test set's own error, and the other group."""
    metric, part = found["metric"], str(found["metric"]).partition("/")[0]
    yield f"{found['group']}  {metric}{'' if part == 'test' else ': there are no test scores'}"
    for one in found["per_seed"]:
        score = one["state"] if one["value"] is None else written(metric, one["value"])
        yield f"  seed {one['seed']:<4} {score}"
    if not found["n"]:
        return
    spread = "" if found["sd"] is None else f"  sd {written(metric, found['sd'])}"
    ends = f"min {written(metric, found['min'])}  max {written(metric, found['max'])}"
    yield f"  mean      {written(metric, found['mean'])}{spread}  {ends}  n {found['n']}"
    if found["ci95"] is None:
        yield f"  There is no interval below {AT_LEAST} seeds."
    else:
        yield f"  over seeds   {_interval(metric, found['ci95'])}: 95 % interval of the mean, Student's t"
    if found["test_error"]:
        images = f"{found['test_images']:,} {part} images"
        yield f"  over images  {_interval(metric, found['test_error'])}: 95 % interval for the {images}, Wilson"
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
    if other["ci95"] is None:
        yield f"  There is no interval and no t-test below {AT_LEAST} pairs."
    else:
        yield f"  over seeds   {_interval(metric, other['ci95'], _signed)}: 95 % interval, Student's t"
    if other["p"] is not None:
        yield f"  t-test       p = {other['p']:.4f}"
    if other["sign_flip_p"] is not None:
        least = f"{other['n']} pairs can't give less than {other['floor']:.4g}"
        yield f"  sign flips   p = {other['sign_flip_p']:.4f}, exact; {least}"


def _signed(metric: str, value: float) -> str:
    return f"{100 * value:+.2f} points" if metric.rpartition("/")[2].startswith("top") else f"{value:+.4f}"


def _interval(metric: str, ends: Sequence[float], form: Any = written) -> str:
    low, high = (form(metric, end) for end in ends)
    return f"{low.removesuffix(' %').removesuffix(' points')} to {high}"
