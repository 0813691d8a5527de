"""A command's configuration files, options and checkpoint, before parsing."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from resnet18.classifier import Classifier
from resnet18.cli.config_files import LINKED, check_file, leaves, read_yaml, shown, without_numbers
from resnet18.cli.explain import KeyedError, MissingError, explain
from resnet18.cli.trainer_parts import CALLBACK_OPTIONS, as_list, refuse_callbacks
from resnet18.engine.inputs import DESCRIBED
from resnet18.errors import RunError, UsageError
from resnet18.runs import stored_config
from resnet18.storage.checkpoints import find_checkpoint, read_checkpoint, read_resumable, run_directory
from resnet18.storage.class_paths import current_paths, import_class
from resnet18.storage.networks import annotate_network
from resnet18.storage.tables import check_output

TRAINED = ("validate", "test", "predict")  # the commands that need a checkpoint
OUTPUT = "predictions.csv"
ONLY_SHOWN = ("-h", "--help", "--print_config")


class Inputs:
    """Reads and checks a command's files, options and checkpoint."""

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command, self.arguments = command, arguments
        paths, options = take(arguments, "--config", "-c")
        self.config_paths = list(map(Path, paths))
        self.files = [(path, read_yaml(path)) for path in self.config_paths]
        for path, content in self.files:
            check_file(content, str(path))
        refuse_callbacks(self.files, take(options, *CALLBACK_OPTIONS)[0])
        for option in options:
            if source := LINKED.get(shown(option.partition("=")[0].removeprefix("--"))):
                raise UsageError(f"{option} can't be given; it is taken from {source}")
        self.checkpoint_path: Path | None = None
        self.checkpoint: dict[str, Any] = {}
        self.output, self.images = OUTPUT, list[str]()
        if command == "predict":
            self.output = str([OUTPUT, *self._values("output")][-1])
            if not self.only_shows:
                check_output(self.output)  # before anything is loaded
            self.images, options = take(options, "--images", many=True)
            self.images = self.images or [str(image) for image in as_list([None, *self._values("images")][-1])]
            # Read here alone: jsonargparse takes a millisecond to check each text of a list.
            options += [f"--images={json.dumps(self.images)}"] if self.images else []
        self.stored = self._read_checkpoint()
        self.model_class, options = self._find_model_class(options)
        contents = [_as_parsed(content) for content in (self.stored, *(one for _, one in self.files)) if content]
        self.stored = contents[0] if self.stored else None
        networks = [content["model"].get("backbone") for content in contents if "model" in content]
        for network in [*networks, *take(options, "--model.backbone", "--model.backbone.class_path")[0]]:
            annotate_network(network)
        self.to_parse = [*(f"--config={yaml.safe_dump(content)}" for content in contents), *options]

    @property
    def only_shows(self) -> bool:
        """Whether nothing is run."""
        return any(argument.startswith(ONLY_SHOWN) for argument in self.arguments)

    def _values(self, name: str) -> list[Any]:
        """All values that files and then the command line give an option; the last one counts."""
        return [content[name] for _, content in self.files if content.get(name)] + take(self.arguments, f"--{name}")[0]

    def _read_checkpoint(self) -> dict[str, Any] | None:
        """Reads the last checkpoint named; returns the part of its configuration that the command uses."""
        places = self._values("ckpt_path")
        if not places:
            if self.command in TRAINED and not self.only_shows:
                usage = f"lightning {self.command} --ckpt_path RUN_OR_CHECKPOINT"
                raise UsageError(f"{self.command} needs trained weights: {usage}")
            return None
        if self.command == "fit":
            self.checkpoint_path, self.checkpoint = read_resumable(places[-1])
            return stored_config(self.checkpoint, self.checkpoint_path)
        self.checkpoint_path = find_checkpoint(places[-1])
        self.checkpoint = read_checkpoint(self.checkpoint_path)
        stored = stored_config(self.checkpoint, self.checkpoint_path)
        stored = {key: stored[key] for key in ("seed_everything", "model", "data", "trainer") if key in stored}
        stored["trainer"]["logger"] = False
        if self.images:
            stored["data"] = self._unlabelled(stored["data"].get("init_args", {}).get("eval_share", 1.0))
        return stored

    def _unlabelled(self, eval_share: float) -> dict[str, Any]:
        """Configures prediction of the user's images, prepared like the checkpoint's training images."""
        known = self.checkpoint.get(Classifier.CHECKPOINT_HYPER_PARAMS_KEY, {})
        names = ("mean", "std", "class_names", "input_size")
        if missing := [name for name in names if not known.get(name)]:
            raise RunError(f"{self.checkpoint_path} does not say its {' and '.join(missing)}, which --images needs")
        view = {"eval_share": eval_share, "interpolation": "bilinear"}  # in an older checkpoint
        given = {**view, **{name: known[name] for name in DESCRIBED[1:] if name in known}}
        return {"class_path": "resnet18.data.unlabelled.Unlabelled", "init_args": given}

    def _find_model_class(self, options: list[str]) -> tuple[type[Classifier], list[str]]:
        """The model's class, and the options without the one that names it, since the parser is made for that class."""
        named = [("", "Classifier")]
        if self.stored:
            named = [(f"{self.checkpoint_path}: ", self.stored["model"].get("class_path", "Classifier"))]
        for path, content in self.files:
            if "class_path" in content.get("model", {}):
                named.append((f"{path}: ", content["model"]["class_path"]))
        typed, options = take(options, "--model", "--model.class_path")
        named += [("", name) for name in typed]
        kind = _model_class(*named[-1])
        if self.stored and kind is not _model_class(*named[0]):
            self.refuse_changes([f"model: {named[0][1]} → {named[-1][1]}"])
        return kind, [option.replace("--model.init_args.", "--model.", 1) for option in options]

    def refuse_changes(self, changes: list[str]) -> None:
        """Refuses values that contradict the checkpoint's."""
        changed = f"changed: {'; '.join(changes[:3])}"
        if self.command != "fit":
            raise UsageError(f"the model comes from the checkpoint; {changed}")
        raise UsageError(
            "resuming keeps a run's hyper-parameters, for the optimizer's state would bring the old ones back; "
            f"{changed}. For a new run from its weights: --init_from {self.run_name()}"
        )

    def run_name(self) -> str:
        """The resumed run, quoted for a shell."""
        assert self.checkpoint_path is not None
        return shlex.quote(str(run_directory(self.checkpoint_path) or self.checkpoint_path))

    def has_option(self, key: str) -> bool:
        """Whether the command line gives a key or one above it."""
        options = [shown(argument.partition("=")[0].lstrip("-")) for argument in self.arguments]
        return any(f"{shown(key)}.".startswith(f"{option}.") for option in options if option)

    def has_option_below(self, key: str) -> bool:
        return any(option.startswith(f"--{shown(key)}.") for option in self.arguments)

    def source_of(self, key: str) -> str:
        """The configuration file of a key as the start of a sentence, empty for the command line."""
        parts = without_numbers(shown(key)).split(".")
        # A message may leave out a key between: model.metrics.classes for model.metrics.f1.classes. So the file of the
        # nearest key above is taken, unless options lie below that; a whole group like model tells too little.
        for length in range(len(parts), min(len(parts), 2) - 1, -1):
            name = ".".join(parts[:length])
            if not name or self.has_option(name) or (length < len(parts) and self.has_option_below(name)):
                return ""
            for path, content in reversed(self.files):
                if any(f"{without_numbers(shown(leaf))}.".startswith(f"{name}.") for leaf, _ in leaves(content)):
                    return f"{path}: "
        return ""

    def located(self, error: KeyedError) -> UsageError:
        """Adds the configuration file of its key to an error."""
        where = self.source_of(error.key)
        if isinstance(error, MissingError):
            everywhere = f"{', '.join(map(str, self.config_paths))}: " if self.files else ""
            return UsageError(f"{where if error.key else everywhere}{error}; see configs/")
        return UsageError(f"{where}{error}")


def take(arguments: list[str], *names: str, many: bool = False) -> tuple[list[str], list[str]]:
    """Every value of an option, which has ``many`` or one each time it is given, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(*names, action="extend", nargs="+" if many else 1, default=[], dest="values")
    try:
        given, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # a value is missing; the command's parser will say so
        return [], arguments
    return given.values, others


def _model_class(where: str, path: str) -> type[Classifier]:
    try:
        return Classifier if path == "Classifier" else import_class(path, Classifier)
    except ArgumentError as error:
        raise UsageError(f"{where}{explain(str(error), (), 'model')}") from None


def _as_parsed(content: dict[str, Any]) -> dict[str, Any]:
    """Updates old class paths, and moves the model's arguments to where the parser has them."""
    content = current_paths(content)
    model = content.get("model", {})
    if model.keys() & {"class_path", "init_args"}:
        content["model"] = {**(model.get("init_args") or {}), **(model.get("dict_kwargs") or {})}
    return content
