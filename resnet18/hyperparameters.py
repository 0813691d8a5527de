"""A model's hyper-parameters in its checkpoint: written as plain values only, and the way back to the model."""

from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningModule

from resnet18.checkpoints import read_checkpoint
from resnet18.class_paths import refuse_foreign_code
from resnet18.errors import RunError

Model = TypeVar("Model", bound=LightningModule)


def plain_values(hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """Those that ``torch.load`` reads with ``weights_only=True``.

    A model made in Python holds its backbone and optimizer as objects, which are left out.
    """
    return {name: value for name, value in hyper_parameters.items() if name != "_instantiator" and _is_plain(value)}


def described_model(kind: type[Model], path: Path, given: dict[str, Any]) -> Model:
    """The model that a checkpoint describes, with its weights, on the CPU.

    Lightning's own ``load_from_checkpoint`` calls what a checkpoint names before anyone has looked at it.

    Args:
        kind: The model's class.
        path: From a run, or from a Trainer used in Python.
        given: Arguments that the checkpoint lacks or should not decide.

    Raises:
        RunError: Where the file is broken or names foreign code, and where weights and description do not fit.
    """
    checkpoint = read_checkpoint(path)
    described = checkpoint.get(kind.CHECKPOINT_HYPER_PARAMS_KEY)
    if not isinstance(described, dict) or "state_dict" not in checkpoint:
        raise RunError(f"{path} does not describe a model, so it is not a checkpoint of this project")
    described = {name: value for name, value in described.items() if name not in given and name[0] != "_"}
    for value in described.values():
        if isinstance(value, dict) and "dict_kwargs" in value:  # LightningCLI notes num_classes as a named one, too
            arguments = value.get("init_args", {})
            value["init_args"] = {name: arguments[name] for name in arguments if name not in value["dict_kwargs"]}
    parser = ArgumentParser(exit_on_error=False)
    # As the command line does, it takes arguments without a type.
    parser.add_class_arguments(kind, "model", skip=set(given), instantiate=False, fail_untyped=False)
    try:
        config = parser.parse_object({"model": described})
    except ArgumentError as error:
        raise RunError(f"{path} does not describe its model: {shorten(str(error), 300)}") from None
    refuse_foreign_code(config, str(path))
    model = kind(**vars(parser.instantiate(config).model), **given)
    model.hparams.update(described)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the model it is for: {str(error).splitlines()[1].strip()}") from None
    return model


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)
