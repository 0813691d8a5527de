"""Networks from elsewhere: functions without annotations, and a last layer of another width."""

import contextlib
import inspect
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jsonargparse
from torch import nn

from resnet18.errors import RunError
from resnet18.optimization import head_name
from resnet18.storage.class_paths import import_object, parameter_names

# timm's function for making networks has no return annotation. It is safe unless it reads weights from anyone: with
# these arguments it would, and a pickle among them could run code.
TIMM = ("timm", "create_model")
READS_WEIGHTS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
Takes = Literal["by name", "in kwargs"] | None
INSTALLED = {"site-packages", "dist-packages"}


def annotate_network(network: Any) -> None:
    """Adds the return annotation that jsonargparse needs to a function of timm's or the user's; calls nothing."""
    path = network.get("class_path") if isinstance(network, dict) else network
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable)
    with contextlib.suppress(Exception):  # the command's parser will report the same error
        made = parser.parse_args([f"--network={path}"]).network  # or a Namespace, for a class
        if inspect.isfunction(made) and "return" not in made.__annotations__:
            is_timm = (made.__module__.partition(".")[0], made.__qualname__) == TIMM
            if is_timm or _is_own(made):
                made.__annotations__["return"] = nn.Module


def _is_own(made: Any) -> bool:
    """Whether a function takes ``num_classes`` and is of this session, or of a file below the working directory that is
    not installed."""
    if made.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):  # of a notebook, say
        return "num_classes" in inspect.signature(made).parameters
    file = Path(made.__code__.co_filename).resolve()  # where it was written, not where it was imported
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    installed = INSTALLED & set(file.parts) or any(file.is_relative_to(library) for library in libraries)
    return file.is_relative_to(Path.cwd().resolve()) and not installed and takes_num_classes(made) is not None


def refuse_foreign_weights(network: Any, where: str) -> None:
    """RunError for an argument with which a network of timm's reads weights that anyone may have uploaded."""
    path = network.get("class_path", "") if isinstance(network, jsonargparse.Namespace) else ""
    if not path.startswith(f"{TIMM[0]}."):
        return
    given = {**vars(network.get("init_args") or jsonargparse.Namespace()), **(network.get("dict_kwargs") or {})}
    names = [name for name in READS_WEIGHTS if given.get(name)]
    if ":" in str(given.get("model_name")):  # hf-hub:owner/name
        names.append("model_name")
    if names:
        raise RunError(f"{where}: model.backbone.{names[0]} would load weights that could run code; use --init_from")


def takes_num_classes(made: Any) -> Takes:
    """How a class or a function takes the number of classes, if it does."""
    if "num_classes" in parameter_names(made):
        return "by name"
    kinds = [parameter.kind for parameter in inspect.signature(made).parameters.values()]
    return "in kwargs" if inspect.Parameter.VAR_KEYWORD in kinds else None


def make_network(made: Any, num_classes: int) -> tuple[nn.Module, dict[str, Any] | None]:
    """A network for so many classes, and its description as a checkpoint of the command line's has it.

    Args:
        made: The class, function or partial that makes it, or the network itself, which is not described; neither is
            what can't be imported by its name: a lambda, a class inside a function.
        num_classes: Given to what takes it; else the last layer is replaced by one of this width.

    Raises:
        TypeError: For what is and makes no module.
    """
    if isinstance(made, nn.Module):
        return made, None
    if not callable(made):
        raise TypeError(f"backbone: expected a network or what makes one, not a {type(made).__name__}")
    function, given = (made.func, dict(made.keywords)) if isinstance(made, partial) else (made, {})
    takes = takes_num_classes(function)
    network = made(num_classes=num_classes) if takes else made()
    if not isinstance(network, nn.Module):
        raise TypeError(f"backbone: {made!r} makes a {type(network).__name__}, not a torch.nn.Module")
    if takes is None:
        resize_head(network, num_classes)
    path, names = f"{function.__module__}.{getattr(function, '__qualname__', '')}", parameter_names(function)
    if import_object(path) is not function or getattr(made, "args", ()):
        return network, None
    given |= {"num_classes": num_classes} if takes else {}
    described = {"init_args": {name: value for name, value in given.items() if name in names}}
    described["dict_kwargs"] = {name: value for name, value in given.items() if name not in names}
    return network, {"class_path": path, **{name: part for name, part in described.items() if part}}


def prepare_stored(described: dict[str, Any]) -> Takes:
    """Annotates the network in a checkpoint's hyper-parameters, and returns how it takes ``num_classes``."""
    network = described.get("backbone")
    if not isinstance(network, dict):  # it is given as an object
        return "by name"
    annotate_network(network)
    made = import_object(str(network.get("class_path")))
    takes = takes_num_classes(made) if inspect.isclass(made) or inspect.isfunction(made) else "by name"
    if takes != "by name":  # Lightning notes num_classes for every network
        arguments = {name: value for name, value in (network.get("init_args") or {}).items() if name != "num_classes"}
        described["backbone"] = {**network, "init_args": arguments}
    return takes


def resize_head(network: nn.Module, num_classes: int) -> str:
    """Gives the last layer ``num_classes`` fresh outputs if it has another number; returns a sentence if it did."""
    name = head_name(network)
    head = network.get_submodule(name)
    kind = type(head).__name__
    fixed = f"{type(network).__name__} takes no num_classes, and its last layer {name}".rstrip()
    if not isinstance(head, nn.Linear | nn.Conv2d):
        raise ValueError(f"{fixed} is a {kind}: only a Linear or a Conv2d can be given another width")
    width = "out_features" if isinstance(head, nn.Linear) else "out_channels"
    if (before := getattr(head, width)) == num_classes:
        return ""
    head.weight = nn.Parameter(head.weight.new_empty(num_classes, *head.weight.shape[1:]))
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.new_empty(num_classes))
    setattr(head, width, num_classes)
    head.reset_parameters()
    return f"{fixed} had a width of {before}: it starts afresh with {num_classes}"
