"""Configurations with one fault each, made from the shipped ones: the same for the same seed.

A fault is a key misspelt, a value of a wrong type, a required key missing, a key that does not exist, or nonsense: a
value out of range, a class of the wrong kind, a file that is no YAML or no mapping. What is left means nothing, by
construction: a name is made up where no class takes it, and null given where None is not taken.
"""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from nonsense import BROKEN, EXTRA, NEVER_NULL, NONSENSE

ROOT = Path(__file__).parents[1]
DIGITS = "configs/digits.yaml"
SHARES = {"misspelt": 22, "wrong type": 22, "missing": 12, "extra": 14, "nonsense": 30}  # of 100
REQUIRED = {"model", "backbone", "optimizer", "data", "class_path", "root", "step_size", "epochs"}
LEFT_OUT = {"best": {"monitor": "val/top1", "mode": "max"}, "last": {"every_n_steps": 100, "every_n_minutes": 5.0}}


class Mutation(NamedTuple):
    """A configuration with a fault."""

    kind: str
    source: str
    """The configuration it was made from: a path from the top of the project."""
    key: str
    """The key at fault, as one types it; the word for its place where the text is at fault, or nothing."""
    change: str
    """What was done to it."""
    content: bytes
    """The file."""
    below: str | None
    """The configuration that it is laid over, where it is not a whole one."""
    meant: str = ""
    """The right name of a key that was misspelt."""


class Fault(NamedTuple):
    path: tuple[Any, ...]
    change: str
    config: dict[str, Any]
    meant: str = ""


def mutations(count: int = 100, seed: int = 0) -> list[Mutation]:
    """So many of them, spread over the kinds, the places of a configuration and the shipped files.

    Every fourth that allows it holds only the group at fault, and is laid over the configuration it was made from.
    """
    chance = random.Random(seed)
    sources = _sources()
    found: list[Mutation] = []
    for kind, share in SHARES.items():
        wanted = round(share * count / sum(SHARES.values()))
        if kind == "nonsense":
            texts = _broken_texts(sources, chance)
            found += texts[: wanted // 2]
            wanted -= len(texts[: wanted // 2])
        found += _spread(kind, sources, wanted, chance)
    return found


def _sources() -> dict[str, dict[str, Any]]:
    """The shipped configurations, and what goes on top of them; with the two groups that each leaves out."""
    found = {}
    for path in [*sorted(ROOT.glob("configs/*.yaml")), *sorted(ROOT.glob("configs/trainer/*.yaml"))]:
        found[str(path.relative_to(ROOT))] = {**yaml.safe_load(path.read_text()), **deepcopy(LEFT_OUT)}
    return found


def _spread(kind: str, sources: dict[str, Any], wanted: int, chance: random.Random) -> list[Mutation]:
    """Takes turns between the places, and in each between the keys, so that none is left out for another's many."""
    places: dict[tuple[str, ...], dict[str, list[tuple[str, Fault]]]] = {}
    for source, config in sources.items():
        if kind == "nonsense" and config.get("trainer", {}).get("accelerator") == "gpu":
            continue  # without one it is that which is refused
        for fault in FAULTS[kind](config, chance):
            place = tuple(part for part in fault.path[:-1] if isinstance(part, str))
            places.setdefault(place, {}).setdefault(str(fault.path[-1]), []).append((source, fault))
    turns = [list(keys.values()) for _, keys in sorted(places.items())]
    for keys in turns:
        chance.shuffle(keys)
    found: list[Mutation] = []
    number = 0
    while len(found) < wanted and any(turns):
        keys = turns[number % len(turns)]
        number += 1
        if keys:
            candidates = keys.pop(0)
            source, fault = candidates.pop(chance.randrange(len(candidates)))
            if candidates:
                keys.append(candidates)
            found.append(_written(kind, source, fault, laid_over=len(found) % 4 == 3 and kind != "missing"))
    return found


def _written(kind: str, source: str, fault: Fault, laid_over: bool) -> Mutation:
    config, below = fault.config, None
    if Path(source).parent.name != "configs":
        below = DIGITS
    elif laid_over:
        below = source
        first, second = fault.path[0], fault.path[1] if len(fault.path) > 1 else None
        group = config[first]
        whole = second is None or not isinstance(group, dict) or "class_path" in group or second not in group
        config = {first: group if whole else {second: group[second]}}
    return Mutation(kind, source, shown(fault.path), fault.change, _yaml(config), below, fault.meant)


def shown(path: tuple[Any, ...]) -> str:
    """A path through a configuration as the dotted key that one types."""
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    return key.lstrip(".").replace(".init_args", "")


def _yaml(config: Any) -> bytes:
    return yaml.safe_dump(config, sort_keys=False).encode()


def _walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of a configuration, mappings and lists included, with the path to it."""
    if path:
        yield path, value
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(inner, (*path, name))


def _at(config: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        config = config[part]
    return config


def _changed(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy = deepcopy(config)
    _at(copy, path[:-1])[path[-1]] = value
    return copy


def _misspelt(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, _ in _walk(config):
        if not isinstance(name := path[-1], str):
            continue
        at = chance.randrange(1, len(name))
        swapped = name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :]
        ways = [name[:at] + name[at + 1 :], name[:at] + name[at - 1] + name[at:], swapped]
        wrong = chance.choice([way for way in ways if way != name])
        copy = deepcopy(config)
        place = _at(copy, path[:-1])
        items = [(wrong if key == name else key, value) for key, value in place.items()]
        place.clear()
        place.update(items)
        yield Fault((*path[:-1], wrong), f"{name} → {wrong}", copy, name)


def _of_wrong_type(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, value in _walk(config):
        if "strategy" in path[:-1]:  # torch's DistributedDataParallel says nothing of its arguments' types
            continue
        wrong: list[Any] = [[1, 2], {"value": 1}]
        if isinstance(value, dict):
            wrong = [3, [1, 2], "fast"] if path[-1] != "init_args" else [3, [1, 2]]
        elif isinstance(value, list):
            wrong = [3, {"value": 1}, *(["wide", [0.5]] if path[-1] == "growth" else [])]
        elif isinstance(value, bool):
            wrong += ["perhaps", 3]
        elif isinstance(value, int | float):
            wrong += ["many", True, *([2.5] if isinstance(value, int) else [])]
            wrong = wrong[1:2] if path[-1] == "devices" else wrong  # of which there may be a list, and a word
        else:
            wrong += [3, False]
        if path[-1] in NEVER_NULL:
            wrong.append(None)
        new = chance.choice(wrong)
        # What stands for a class without arguments is the class itself.
        told = path[:-1] if path[-1] in ("class_path", "init_args") else path
        yield Fault(told, f"{shown(path[-1:])} = {new!r}", _changed(config, path, new))


def _missing(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, _ in _walk(config):
        if path[-1] in REQUIRED and not (path[-1] == "root" and "CIFAR" in str(config)):
            copy = deepcopy(config)
            del _at(copy, path[:-1])[path[-1]]
            told = path[:-1] if path[-1] == "class_path" else path
            yield Fault(told, f"without {path[-1]}", copy)


def _extra(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, value in [((), config), *_walk(config)]:
        owner = next((part for part in reversed(path) if isinstance(part, str) and part != "init_args"), "")
        if isinstance(value, dict) and owner in EXTRA:
            name, added = chance.choice(list(EXTRA[owner].items()))
            yield Fault((*path, name), f"{name} = {added!r} added", _changed(config, (*path, name), added))


def _nonsense(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for key, values in NONSENSE.items():
        path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        try:
            place: Any = _at(config, path[:-1])
        except (KeyError, IndexError, TypeError):
            continue
        name, class_path = path[-1], ""
        if path[-2:-1] == ("init_args",):
            class_path = _at(config, path[:-2]).get("class_path", "")
        if not isinstance(place, dict) or (class_path and name not in place and not _takes(class_path, str(name))):
            continue
        value = chance.choice(values)
        told = path[:-1] if name == "class_path" else path
        yield Fault(told, f"{name} = {value!r}", _changed(config, path, value))


def _takes(class_path: str, name: str) -> bool:
    """Whether a class has an argument, of those that some shipped configuration does not give."""
    files = ("ImageFolder", "ImageNet")
    only_files = ("crop", "policy", "magnitude", "erasing", "num_workers", "resident_limit_gb", "feed", "channels")
    if class_path.startswith("resnet18.data."):
        shared = ("batch_size", "eval_batch_size", "val_share", "translate", "cutout")
        return name in shared or (name in only_files and class_path.endswith(files))
    return name in ("weight_decay", "width", "stem", "in_channels")


def _broken_texts(sources: dict[str, dict[str, Any]], chance: random.Random) -> list[Mutation]:
    """Files that are no YAML, or none that is a configuration."""
    found = []
    names = [name for name in sources if Path(name).parent.name == "configs"]
    for number, (change, (key, make)) in enumerate(BROKEN.items()):
        source = names[number % len(names)]
        content = make(_yaml(sources[source]).decode())
        text = content if isinstance(content, bytes) else content.encode()
        found.append(Mutation("nonsense", source, key, change, text, source if number % 4 == 3 else None))
    chance.shuffle(found)
    return found


FAULTS: dict[str, Callable[[dict[str, Any], random.Random], Iterator[Fault]]] = {
    "misspelt": _misspelt,
    "wrong type": _of_wrong_type,
    "missing": _missing,
    "extra": _extra,
    "nonsense": _nonsense,
}
