"""Configurations with one fault each, made from the shipped ones: the same for the same seed.

A fault is a key misspelt, a value of a wrong type, a required key missing, a key that does not exist, or nonsense: a
value out of range, a class of the wrong kind, a file that is no YAML or no mapping.
"""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
SHARES = {"misspelt": 22, "wrong type": 22, "missing": 12, "extra": 14, "nonsense": 30}  # of 100
DEFAULTS = {"best": {"monitor": "val/top1"}, "last": {"every_n_steps": 100}}  # groups that the shipped ones leave out
REQUIRED = {"model", "backbone", "optimizer", "data", "class_path", "root", "step_size", "epochs"}
EXTRA = ("dataset", "num_layers", "gpus", "early_stopping", "train_batch_size", "transforms")  # nothing takes them
NAN = float("nan")
NONSENSE: dict[str, list[Any]] = {  # by dotted key; a number is a place in a list
    "seed_everything": [-1, 1.5, 2**70],
    "model.backbone.class_path": ["torch.optim.SGD", "resnet18.backbone.ResNett", "resnet18.nowhere.Net", "os.getcwd"],
    "model.backbone.init_args.stem": ["cifar100", ""],
    "model.backbone.init_args.width": [0, -64],
    "model.optimizer.class_path": ["torch.nn.Linear", "torch.optim.AdmaW", "torch.optim"],
    "model.optimizer.init_args.lr": [-1, NAN, float("inf"), None],
    "model.optimizer.init_args.weight_decay": [-0.1, NAN],
    "model.schedule.class_path": ["torch.optim.SGD", "resnet18.schedules.WarmupCosin"],
    "model.schedule.init_args.warmup": [1.5, -0.1, NAN],
    "model.schedule_interval": ["batch", "epochs"],
    "model.label_smoothing": [3, -0.1, NAN],
    "model.mixup": [-0.2, float("inf")],
    "model.backbone_lr_scale": [0, -0.1, NAN],
    "data.class_path": ["torch.nn.Linear", "resnet18.data.cifar10.CIFAR", "torch.utils.data.DataLoader"],
    "data.init_args.batch_size": [0, -64, None],
    "data.init_args.val_share": [2, 0, -0.1, NAN],
    "data.init_args.translate": [-1, 10**6],
    "data.init_args.image_size": [0, -128],
    "data.init_args.eval_share": [0, 87.5, NAN],
    "data.init_args.policy": ["autoaugment"],
    "data.init_args.magnitude": [-1, 99],
    "trainer.max_epochs": [-5, 0],
    "trainer.precision": ["bf17-mixed", 17],
    "trainer.log_every_n_steps": [-10],
    "trainer.devices": [0, -2, "two"],
    "trainer.accelerator": ["cpuu", "quantum"],
    "trainer.strategy": ["ddpp"],
    "trainer.check_val_every_n_epoch": [0, -1],
    "trainer.limit_train_batches": [-1, 1.5],
    "trainer.accumulate_grad_batches": [0, -4],
    "trainer.gradient_clip_val": [-1, NAN],
    "trainer.gradient_clip_algorithm": ["median"],
    "trainer.callbacks.0.class_path": ["torch.nn.ReLU", "resnet18.callbacks.freezing.Freez"],
    "trainer.logger": ["TensorBord"],
    "best.monitor": ["test/top1", "val/top2", "top1"],
    "best.mode": ["maximum", "up"],
    "last.every_n_steps": [0, -7],
}
TAKEN = {"width", "stem", "weight_decay", "batch_size", "val_share", "translate"}  # by all classes, given or not
BROKEN: dict[str, tuple[str, Callable[[str], str]]] = {  # whole files: what has to be named, and the way to break one
    "a tab in front": ("line ", lambda text: text.replace("\n  ", "\n\t", 1)),
    "an unclosed bracket": ("line ", lambda text: text.replace("trainer:\n", "trainer:\n  callbacks: [1, 2\n")),
    "a colon forgotten": ("line ", lambda text: text.replace("max_epochs: ", "max_epochs ")),
    "one space too many": ("line ", lambda text: text.replace("  max_epochs", "   max_epochs")),
    "a group given twice": ("trainer", lambda text: f"{text}trainer:\n  max_epochs: 1\n"),
    "an inner key given twice": (
        "model.optimizer.lr",
        lambda text: text.replace("      lr: ", "      lr: 1\n      lr: "),
    ),
    "a tag of Python": ("line ", lambda text: f"{text}experiment: !!python/object/apply:os.getcwd []\n"),
    "a number as a key": ("trainer.3", lambda text: text.replace("trainer:\n", "trainer:\n  3: 4\n")),
    "two documents": ("line ", lambda text: f"{text}---\n{text}"),
    "a list at the top": ("", lambda text: "".join(f"- {line}\n" for line in text.splitlines() if line[0] != " ")),
    "a word at the top": ("", lambda text: "digits\n"),
    "nothing in it": ("", lambda text: ""),
    "a byte of zero": ("", lambda text: f"{text}\x00"),
}

Place = tuple[Any, ...]  # of keys and places through a configuration


class Fault(NamedTuple):
    path: Place
    change: str
    config: dict[str, Any]
    meant: str = ""


class Mutation(NamedTuple):
    """A configuration with a fault."""

    kind: str
    source: str  # the configuration it was made from: a path from the top of the project
    key: str  # at fault, as one types it; the word for its place where the text is at fault, or nothing
    change: str
    content: str
    below: str | None  # the configuration that it is laid over, where it is not a whole one
    meant: str = ""  # the right name of a key that was misspelt


def mutations(count: int = 100, seed: int = 0) -> list[Mutation]:
    """Mutations, spread over the kinds, the keys and the shipped files.

    Every fourth that allows it holds only the group at fault, and is laid over the configuration it was made from.
    """
    chance = random.Random(seed)
    paths = [*sorted(ROOT.glob("configs/*.yaml")), *sorted(ROOT.glob("configs/trainer/*.yaml"))]
    sources = {str(path.relative_to(ROOT)): yaml.safe_load(path.read_text()) | deepcopy(DEFAULTS) for path in paths}
    found: list[Mutation] = []
    for kind, share in SHARES.items():
        wanted = round(share * count / sum(SHARES.values()))
        if kind == "nonsense":
            broken = _broken(sources)[: wanted // 2]
            found, wanted = found + broken, wanted - len(broken)
        faults = [(source, fault) for source, config in sources.items() for fault in FAULTS[kind](config, chance)]
        chance.shuffle(faults)
        first = {shown(fault.path): number for number, (_, fault) in reversed([*enumerate(faults)])}
        others = [number for number in range(len(faults)) if number not in first.values()]
        for number, chosen in enumerate([*sorted(first.values()), *others][:wanted]):
            found.append(_written(kind, *faults[chosen], laid_over=number % 4 == 3 and kind != "missing"))
    return found


def _written(kind: str, source: str, fault: Fault, laid_over: bool) -> Mutation:
    config, below = fault.config, None
    if Path(source).parent.name != "configs":
        below = "configs/digits.yaml"
    elif laid_over:
        config, below = {fault.path[0]: config[fault.path[0]]}, source
    return Mutation(kind, source, shown(fault.path), fault.change, _yaml(config), below, fault.meant)


def _broken(sources: dict[str, Any]) -> list[Mutation]:
    names = [name for name in sources if Path(name).parent.name == "configs"]
    return [
        Mutation("nonsense", name := names[number % len(names)], key, change, make(_yaml(sources[name])), None)
        for number, (change, (key, make)) in enumerate(BROKEN.items())
    ]


def shown(path: Place) -> str:
    """A path through a configuration as the dotted key that one types."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return key.lstrip(".").replace(".init_args", "")


def _yaml(config: Any) -> str:
    return yaml.safe_dump(config, sort_keys=False)


def _walk(value: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value of a configuration, mappings and lists included, with the path to it."""
    if path:
        yield path, value
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(inner, (*path, name))


def _at(config: Any, path: Place) -> Any:
    for part in path:
        config = config[part]
    return config


def _changed(config: dict[str, Any], path: Place, value: Any) -> dict[str, Any]:
    copy = deepcopy(config)
    _at(copy, path[:-1])[path[-1]] = value
    return copy


def _without(config: dict[str, Any], path: Place) -> dict[str, Any]:
    copy = deepcopy(config)
    del _at(copy, path[:-1])[path[-1]]
    return copy


def _owner(path: Place) -> Place:
    """The key that a message names: of a class it is that of the whole."""
    return path[:-1] if path[-1] in ("class_path", "init_args") else path


def _misspelt(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, value in _walk(config):
        if isinstance(name := path[-1], str):
            at = chance.randrange(1, len(name))
            wrong = chance.choice([name[:at] + name[at + 1 :], name[:at] + name[at - 1] + name[at:]])
            changed = _changed(_without(config, path), (*path[:-1], wrong), value)
            yield Fault((*path[:-1], wrong), f"{name} → {wrong}", changed, name)


def _of_wrong_type(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, value in _walk(config):
        wrong: list[Any] = [[1, 2], {"value": 1}]
        if isinstance(value, dict):
            wrong = [3, [1, 2]]
        elif isinstance(value, list):
            wrong = [3, {"value": 1}]
        elif path[-1] == "devices":  # there may be a list of them, or a word
            wrong = [{"value": 1}]
        elif isinstance(value, int | float):
            wrong.append("perhaps")
        new = chance.choice(wrong)
        yield Fault(_owner(path), f"{path[-1]} = {new!r}", _changed(config, path, new))


def _missing(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, _ in _walk(config):
        if path[-1] in REQUIRED and not (path[-1] == "root" and "CIFAR" in str(config)):
            yield Fault(_owner(path), f"without {path[-1]}", _without(config, path))


def _extra(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    for path, value in [((), config), *_walk(config)]:
        if isinstance(value, dict) and "class_path" not in value:
            new = (*path, chance.choice(EXTRA))
            yield Fault(new, f"{new[-1]} = 3 added", _changed(config, new, 3))


def _nonsense(config: dict[str, Any], chance: random.Random) -> Iterator[Fault]:
    if config.get("trainer", {}).get("accelerator") == "gpu":
        return  # without one it is that which is refused
    for key, values in NONSENSE.items():
        path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        try:
            place = _at(config, path[:-1])
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(place, dict) and ("init_args" not in path or path[-1] in TAKEN | set(place)):
            value = chance.choice(values)
            yield Fault(_owner(path), f"{path[-1]} = {value!r}", _changed(config, path, value))


FAULTS: dict[str, Callable[[dict[str, Any], random.Random], Iterator[Fault]]] = {
    "misspelt": _misspelt,
    "wrong type": _of_wrong_type,
    "missing": _missing,
    "extra": _extra,
    "nonsense": _nonsense,
}
