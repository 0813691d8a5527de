import builtins
import os
import pathlib
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch.callbacks
import lightning.pytorch.loggers
import lightning.pytorch.plugins
import lightning.pytorch.profilers
import lightning.pytorch.strategies
import pytest
import torch
import torchvision
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import nn

import resnet18.backbone
import resnet18.schedules
from resnet18.errors import RunError
from resnet18.storage.class_paths import refuse_foreign_code

called: list[str] = []


def trap() -> None:
    called.append("trap")


def unannotated():
    called.append("unannotated")


def returns_anything() -> Any:
    called.append("returns_anything")


def returns_a_flag() -> bool:
    called.append("returns_a_flag")
    return True


def names_nothing() -> "Nothing":  # noqa: F821 # pyrefly: ignore[unknown-name]
    called.append("names_nothing")


def makes_a_module() -> nn.Module:
    called.append("makes_a_module")
    return nn.Identity()


def makes_a_layer() -> "nn.Linear":
    called.append("makes_a_layer")
    return nn.Linear(1, 1)


class Trap:
    def __init__(self) -> None:
        called.append("Trap")


class CallableTrap:
    def __call__(self) -> None:
        called.append("CallableTrap")


@pytest.fixture(autouse=True)
def nothing_is_called() -> Any:
    called.clear()
    yield
    assert called == []


@pytest.mark.parametrize(
    "value",
    [
        nn.Linear,
        resnet18.backbone.ResNet,
        torch.optim.SGD,
        torch.optim.lr_scheduler.StepLR,
        torch.optim.lr_scheduler.ReduceLROnPlateau,
        resnet18.schedules.WarmupCosine,
        resnet18.Digits,
        lightning.pytorch.callbacks.ModelCheckpoint,
        lightning.pytorch.loggers.CSVLogger,
        lightning.pytorch.plugins.MixedPrecision,
        lightning.pytorch.profilers.SimpleProfiler,
        lightning.pytorch.strategies.DDPStrategy,
        resnet18.backbone.resnet18,
        torchvision.models.resnet18,
        makes_a_module,
        makes_a_layer,
    ],
)
def test_permitted_classes_and_functions_pass_as_values_and_as_class_paths(value: Any) -> None:
    path = f"{value.__module__}.{value.__qualname__}"
    refuse_foreign_code({"part": value}, "here")
    refuse_foreign_code({"part": partial(value, 1, name="x")}, "here")
    refuse_foreign_code(Namespace(part=Namespace(class_path=path, init_args=Namespace(width=8))), "here")


def test_primitives_modules_and_paths_pass() -> None:
    values: list[Any] = [None, True, 1, 0.5, "shutil.rmtree", [1, (2, {"a": "b"})], nn.ReLU(), pathlib.Path("/tmp")]
    refuse_foreign_code({"values": values, "more": Namespace(values=values)}, "here")


FOREIGN: list[Any] = [
    (torch.hub.set_dir, "torch.hub.set_dir"),
    (shutil.rmtree, "shutil.rmtree"),
    (builtins.print, "builtins.print"),
    (builtins.exec, "builtins.exec"),
    (os.remove, f"{os.name}.remove"),
    (pathlib.Path, f"{pathlib.Path.__module__}.Path"),  # pathlib._local in Python 3.13
    (dict, "builtins.dict"),
    (torch.load, "torch.serialization.load"),
    (nn.Linear(1, 1).load_state_dict, "torch.nn.modules.module.Module.load_state_dict"),
    (trap, f"{__name__}.trap"),
    (unannotated, f"{__name__}.unannotated"),
    (returns_anything, f"{__name__}.returns_anything"),
    (returns_a_flag, f"{__name__}.returns_a_flag"),
    (names_nothing, f"{__name__}.names_nothing"),
    (Trap, f"{__name__}.Trap"),
    (CallableTrap(), f"{__name__}.<"),
    (lambda: called.append("lambda"), f"{__name__}.<lambda>"),
]


@pytest.mark.parametrize(("value", "name"), FOREIGN, ids=[name for _, name in FOREIGN])
def test_foreign_code_is_refused_by_key_and_name(value: Any, name: str) -> None:
    with pytest.raises(RunError) as refused:
        refuse_foreign_code({"model": {"size": 1, "optimizer": value}}, "some.ckpt")
    assert str(refused.value).startswith(f"some.ckpt: model.optimizer names {name}")
    assert str(refused.value).endswith("; it was not called")


SGD: Any = torch.optim.SGD
NESTINGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "list": (lambda value: {"a": [1, [value]]}, "a[1][0]"),
    "tuple": (lambda value: {"a": ("x", value)}, "a[1]"),
    "namespace": (lambda value: Namespace(a=Namespace(b=value)), "a.b"),
    "mixed": (lambda value: Namespace(a=[{"b": Namespace(c=(value,))}]), "a[0].b.c[0]"),
    "partial": (lambda value: {"a": partial(value, 1)}, "a"),
    "partial of partial": (lambda value: {"a": partial(partial(value, 1), 2)}, "a"),
    "argument of partial": (lambda value: {"a": partial(SGD, value)}, "a"),
    "keyword of partial": (lambda value: {"a": partial(SGD, hook=[value])}, "a"),
    "init_args": (
        lambda value: Namespace(m=Namespace(class_path="torch.nn.ReLU", init_args=Namespace(f=value))),
        "m.init_args.f",
    ),
    "class_path": (lambda value: {"a": {"class_path": value}}, "a.class_path"),
    "beside one that is permitted": (lambda value: {"a": nn.Linear, "b": value}, "b"),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_foreign_code_is_found_however_deep(nesting: str) -> None:
    wrap, key = NESTINGS[nesting]
    with pytest.raises(RunError) as refused:
        refuse_foreign_code(wrap(trap), "config.yaml")
    assert str(refused.value).startswith(f"config.yaml: {key}")
    assert f"{__name__}.trap" in str(refused.value)
    refuse_foreign_code(wrap(makes_a_module), "config.yaml")


@pytest.mark.parametrize(
    "path",
    [
        "torch.hub.set_dir",
        "shutil.rmtree",
        "builtins.print",
        f"{__name__}.trap",
        f"{__name__}.Trap",
        f"{__name__}.missing",
        "torch.nn.Linear.forward",
        "no_such_module.Linear",
        "print",
        "",
    ],
)
def test_a_foreign_class_path_is_refused_by_key(path: str) -> None:
    config = Namespace(trainer=Namespace(callbacks=[Namespace(class_path=path, init_args=Namespace())]))
    with pytest.raises(RunError, match=r"^here: trainer\.callbacks\[0\]\.class_path names .*; it was not called$"):
        refuse_foreign_code(config, "here")


def test_modules_that_start_programs_and_delete_files_cannot_even_be_named() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--function", type=Callable[[Any], Any])
    for path in ("os.system", "shutil.rmtree", "subprocess.run"):
        with pytest.raises(ArgumentError, match="not allowed"):
            parser.parse_args([f"--function={path}"])
    assert parser.parse_args([f"--function={__name__}.trap"]).function is trap
