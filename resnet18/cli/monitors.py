"""What watches a metric follows the metric's direction: the best epoch, EarlyStopping, ReduceLROnPlateau, …"""

from collections.abc import Mapping
from typing import Any, get_args

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback

from resnet18.classifier import Classifier
from resnet18.cli.explain import KeyedError
from resnet18.cli.trainer_parts import as_list
from resnet18.errors import hint
from resnet18.metrics import Mode

MORE = {"max": "more", "min": "less"}


def follow_metrics(
    config: Namespace, given: Namespace, record: dict[str, Any], made: Namespace, model: Classifier
) -> None:
    """Fills in missing modes in ``config`` and ``record``, and remakes callbacks with a wrong default.

    ``given`` is ``config`` without its defaults, ``made`` holds the Trainer's arguments. Refuses unknown metrics, which
    Lightning would notice after the first epoch.
    """
    modes = model.metric_modes
    made.callbacks = callbacks = as_list(made.callbacks)
    # What a user's class logs is not known beforehand.
    own = any(type(one).__module__.partition(".")[0] not in ("lightning", "resnet18") for one in (model, *callbacks))
    best = config.best
    best.mode = record["best"]["mode"] = direction("best", best.monitor, best.mode, modes, own)
    places = [as_list(one.get("trainer", {}).get("callbacks")) for one in (config, given, record)]
    for number, (callback, settings, asked, kept) in enumerate(zip(callbacks, *places, strict=True)):
        monitor, now = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if monitor is None:
            continue
        key, wanted = f"trainer.callbacks[{number}].init_args", now
        if "mode" in settings.get("init_args", {}):  # otherwise the class decides
            wanted = asked.get("init_args", {}).get("mode")
        if now not in get_args(Mode):  # no direction, or another meaning of the word
            wanted = now = modes.get(monitor) or "max"
        mode = direction(key, monitor, wanted, modes, own)
        if mode != now:
            settings.init_args.mode = kept["init_args"]["mode"] = mode
            parser = ArgumentParser(exit_on_error=False)
            parser.add_subclass_arguments(Callback, "callback")
            callbacks[number] = parser.instantiate(Namespace(callback=settings)).callback


def direction(key: str, monitor: str, given: Any, modes: Mapping[str, Mode | None], more: bool = False) -> Mode:
    """The metric's own direction, or the given one if that is unknown; ``more`` allows metrics not in ``modes``."""
    if monitor not in modes and (not more or monitor.startswith("test/")):
        raise KeyedError(f"{key}.monitor", f"must be one of {', '.join(modes)}, not {monitor}{hint(monitor, modes)}")
    own = modes.get(monitor)
    if own and given not in (None, own):
        raise KeyedError(f"{key}.mode", f"{given} contradicts {monitor}, of which {MORE[own]} is better: {own}")
    if not (mode := own or given):
        known = ", ".join(name for name, way in modes.items() if way)
        reason = f"what is better is known of {known}, and not of {monitor}{hint(monitor, modes)}"
        raise KeyedError(f"{key}.mode", f"max or min must be given; {reason}")
    return mode
