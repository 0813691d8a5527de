"""The W&B run: every row once, each metric on its own axis, and plain numbers in its summary."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.storage.records import BEST, LAST

ONLINE_TIMEOUT_S = "10"
STEP = "trainer/global_step"  # under which WandbLogger logs the step
LEVELS = 4  # of keys in a configuration: W&B's page takes no more than three dots in a name
Rows = list[tuple[int, dict[str, float]]]  # step and metrics


class WandbRun(WandbLogger):
    """A W&B run that holds every row once, however often it was killed and resumed.

    Args:
        log_model: Upload ``best.ckpt`` and ``last.ckpt`` at the end of an online run, as an artifact's versions
            ``best`` and ``latest``.
    """

    # W&B writes a file, a part of the run, for each start, and in blocks: a killed process loses its last rows, or has
    # logged some beyond the checkpoint that the run resumes from. Lost rows are taken from metrics.csv, and rows that
    # are there are not logged again.

    epoch_axis = True  # what is measured once an epoch is drawn over the epochs

    def __init__(self, *args: Any, log_model: Literal["all"] | bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.uploads = bool(log_model)
        self._defined: set[str] = set()
        self._last: dict[tuple[str, ...], str] = {}  # JSON, by the key in the summary
        self._stored: set[tuple[int, frozenset[str]]] = set()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Does nothing: :func:`finish_wandb` uploads the checkpoints."""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        super().log_hyperparams(_cut(dict(params) if isinstance(params, dict) else vars(params)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None and (step, frozenset(metrics)) in self._stored:
            return
        self._define(metrics)
        super().log_metrics(metrics, step)

    def _define(self, names: Iterable[str]) -> None:
        """Gives each metric its axis by its name, as `wandb leet` knows no `*`."""
        define = self.experiment.define_metric
        if not self._defined:
            for axis in (STEP, self._prefixed("epoch")):
                define(axis, hidden=True)  # no curves of these
            self._defined.add("epoch")
        for name in [name for name in names if name not in self._defined]:
            once_an_epoch = self.epoch_axis and name.startswith(("val/", "best/", "test", "validate"))
            axis = self._prefixed("epoch") if once_an_epoch else STEP
            define(self._prefixed(name).replace(".", r"\."), step_metric=axis, step_sync=True)
            self._defined.add(name)

    def _prefixed(self, name: str) -> str:
        return f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name

    def remember(self, part: Iterable[Any]) -> None:
        """Notes the rows of an earlier part, which are not logged again, and their last values."""
        for record in part:
            row = {tuple(item.nested_key) or (item.key,): item.value_json for item in record.history.item}
            self._note({".".join(key): value for key, value in row.items()})
            self._last |= {key: value for key, value in row.items() if key[0][:1] != "_"}

    def _note(self, row: Mapping[str, Any]) -> None:
        if STEP in row:
            names = {name.removeprefix(self._prefixed("")) for name in row if not name.startswith("_")}
            self._stored.add((int(row[STEP]), frozenset(names - {STEP})))

    def _ask_server(self) -> bool:
        """Notes the rows that W&B's server has: of those that a killed process logged last, some or none."""
        import wandb

        try:
            run = wandb.Api(timeout=int(ONLINE_TIMEOUT_S)).run(self.experiment.path)
            for row in run.scan_history(use_cache=False):  # W&B's cache would lie outside the run
                self._note(row)
        except Exception as error:  # of any library: the training does not depend on it
            print(f"W&B does not say what it has, so rows may be missing there: {first_line(error)}", file=sys.stderr)
            return False
        return True

    @rank_zero_only
    def fill_in(self, rows: Rows, scores: Mapping[str, float]) -> None:
        """Logs the rows that W&B lacks, and repeats the last values: every part has a summary of its own."""
        known_there = True
        if not self.experiment.offline:
            self._stored.clear()
            known_there = not self.experiment.resumed or self._ask_server()
        for step, metrics in rows if known_there else ():
            self.log_metrics(metrics, step)
        known = {name: value for _, metrics in rows for name, value in metrics.items()} | dict(scores)
        self._define(known)  # or W&B's page forgets the axes of what this part does not log
        last: dict[str, Any] = {}
        for (name, *inner), value in self._last.items():  # pictures too, which are values of several keys
            place = last
            for key in inner:
                place, name = place.setdefault(name, {}), key
            place[name] = json.loads(value)
        self.experiment.summary.update(last | {self._prefixed(name): value for name, value in known.items()})

    def upload(self, folder: Path) -> None:
        """Uploads the checkpoints of an online run, from where they lie."""
        import wandb

        if not self.uploads or self.experiment.offline or self.experiment.disabled:
            return
        for name, alias in ((BEST, "best"), (LAST, "latest")):
            if (folder / name).is_file():
                artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model")
                artifact.add_file(str(folder / name), policy="immutable", skip_cache=True)  # else it is copied
                self.experiment.log_artifact(artifact, aliases=[alias])


def _cut(config: Any, levels: int = LEVELS) -> Any:
    """A configuration in which what lies deeper is text."""
    if not levels or not isinstance(config, dict):
        return json.dumps(config, default=str) if isinstance(config, dict) else config
    return {name: _cut(value, levels - 1) for name, value in config.items()}


def first_line(error: Exception) -> str:
    """An error in a line."""
    return str(error).partition("\n")[0].removesuffix(".")


def default_logger() -> dict[str, Any]:
    """The default logger: W&B, in the environment's project."""
    project = os.environ.get("WANDB_PROJECT") or "resnet18"
    return {"class_path": "resnet18.storage.loggers.WandbRun", "init_args": {"project": project}}
