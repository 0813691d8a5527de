"""The command line's parser: no abbreviations, short errors, and null only where it is a valid value."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from resnet18.classifier import Classifier
from resnet18.cli.explain import Raised, explain
from resnet18.cli.help import plain


class Parser(LightningArgumentParser):
    """Raises :class:`KeyedError` where argparse would print its usage and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # else `--trainer.max_epoch 3` silently means max_epochs
        super().__init__(*args, **kwargs)
        self.model_class: type = Classifier
        self.dropped_links: set[str] = set()  # targets of what Lightning would note as a hyper-parameter
        self.raised: Raised | None = None

    def add_instantiator(
        self, instantiator: Callable[..., Any], class_type: type, subclasses: bool = True, prepend: bool = False
    ) -> None:
        """Also notes which class raised, even when made later, as optimizers are."""

        def noted(kind: type, *args: Any, applied_instantiation_links: dict[str, Any], **given: Any) -> Any:
            links = {key: one for key, one in applied_instantiation_links.items() if key not in self.dropped_links}
            try:
                return instantiator(kind, *args, applied_instantiation_links=links, **given)
            except Exception as error:
                self.raised = error, kind, given
                raise

        super().add_instantiator(noted, class_type, subclasses=subclasses, prepend=prepend)

    def add_function_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        # jsonargparse 4.53 hands a function the links of a class, which it then does not take.
        kwargs.pop("linked_targets", None)
        return super().add_function_arguments(*args, **kwargs)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Also names the model's class, unless it is Classifier."""
        text = super().dump(*args, **kwargs)
        if self.model_class is Classifier:
            return text
        config = yaml.safe_load(text)
        path = f"{self.model_class.__module__}.{self.model_class.__qualname__}"
        config["model"] = {"class_path": path, "init_args": config["model"]}
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        return plain(super().format_help(formatter))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within the parser: the outer one reports
            super().error(message, ex)
        options = [option[2:] for action in self._actions for option in action.option_strings if option[:2] == "--"]
        raise explain(message, options)


def make(kind: type, *args: Any, applied_instantiation_links: dict[str, Any], **given: Any) -> Any:
    """A plain instantiator."""
    return kind(*args, **given)


def refuse_nulls(parser: LightningArgumentParser, config: Namespace) -> None:
    """Refuses null where it is no valid value; jsonargparse accepts it anywhere."""
    config = config.clone()
    config.pop("model.backbone.init_args.num_classes", None)  # linked, so not yet known
    set_parsing_settings(unset_sentinel=True)  # null is now checked like any value
    try:
        parser.validate(config, skip_required=True)
    except TypeError as error:
        parser.error(str(error))
    finally:
        set_parsing_settings(unset_sentinel=False)
