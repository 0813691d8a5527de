"""W&B without questions, an account or a network: one run that holds every row once, in parts that lie in the run."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from resnet18.errors import RunError
from resnet18.storage.metrics_file import MetricsFile
from resnet18.storage.overview import overview
from resnet18.storage.records import BEST, LAST, METRICS, PROVENANCE, read_config, read_json
from resnet18.storage.status import RUNNING, read_status
from resnet18.storage.wandb_parts import link_parts, mend, parts, records

ONLINE_TIMEOUT_S = "10"
STEP = "trainer/global_step"  # under which WandbLogger logs the step
LEVELS = 4  # of keys in a configuration: W&B's page takes no more than three dots in a name
ENVIRONMENT = {  # of options that a run keeps
    **{"name": "WANDB_NAME", "entity": "WANDB_ENTITY", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE"},
    **{"notes": "WANDB_NOTES", "tags": "WANDB_TAGS"},
}
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
        """Notes the rows among the records of an earlier part, which are not logged again."""
        for record in part:
            self._note({".".join(item.nested_key) or item.key: item.value_json for item in record.history.item})

    def _note(self, row: Mapping[str, Any]) -> None:
        if STEP in row:
            names = {name.removeprefix(self._prefixed("")) for name in row if not name.startswith("_")}
            self._stored.add((int(row[STEP]), frozenset(names - {STEP})))

    def _ask_server(self) -> None:
        """Notes the rows that W&B's server has: of those that a killed process logged last, some or none."""
        import wandb

        run = wandb.Api(timeout=int(ONLINE_TIMEOUT_S)).run(self.experiment.path)
        for row in run.scan_history(use_cache=False):  # W&B's cache would lie outside the run
            self._note(row)

    @rank_zero_only
    def fill_in(self, rows: Rows, scores: Mapping[str, float]) -> None:
        """Logs the rows that W&B lacks, and repeats the last values: every part has a summary of its own."""
        if not self.experiment.offline:
            self._stored.clear()
        if self.experiment.resumed and not self.experiment.offline:
            self._ask_server()
        for step, metrics in rows:
            self.log_metrics(metrics, step)
        known = {name: value for _, metrics in rows for name, value in metrics.items()} | dict(scores)
        self._define(known)  # or W&B's page forgets the axes of what this part does not log
        self.experiment.summary.update({self._prefixed(name): value for name, value in known.items()})

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


def default_logger() -> dict[str, Any]:
    """The default logger: W&B, in the environment's project."""
    project = os.environ.get("WANDB_PROJECT") or "resnet18"
    return {"class_path": "resnet18.storage.loggers.WandbRun", "init_args": {"project": project}}


def wandb_without_questions(directory: Path | None) -> None:
    """Sets W&B up not to ask, and to write to the disk only, except for what the user has set in the environment."""
    server = urlsplit(os.environ.get("WANDB_BASE_URL", ""))
    if server.password:  # W&B would write it into the run's files
        os.environ["WANDB_BASE_URL"] = f"{server.scheme}://{server.netloc.rpartition('@')[2]}{server.path}"
        os.environ.setdefault("WANDB_API_KEY", unquote(server.password))
    last = parts(directory)[-1:] if directory else []
    online = "WANDB_SWEEP_ID" in os.environ or any(part.name.startswith("run-") for part in last)
    os.environ.setdefault("WANDB_MODE", "online" if online else "offline")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it looks up a host in offline mode too
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "wrap_emu")  # or the progress bar's control characters get into its log
    os.environ.setdefault("WANDB_INIT_TIMEOUT", ONLINE_TIMEOUT_S)  # 90 s by default


def start_wandb(logger: WandbLogger, directory: Path, rows: Rows) -> None:
    """Starts or resumes the logger's run in a run's directory, or prints why it is kept offline."""
    options = logger._wandb_init
    options.pop("anonymous", None)  # retired, and warned about in every run
    options["resume"] = options.get("resume") or "allow"  # WandbLogger's default, which the parser overwrites with None
    before = {"job_type": "fit", "name": read_json(directory / PROVENANCE).get("name"), "id": options["id"]}
    before |= _earlier_parts(logger, directory)
    for name, value in before.items():
        if name == "id" or not (options.get(name) or os.environ.get(ENVIRONMENT[name])):
            options[name] = value
    _go_online_or_not(logger)
    if not logger.experiment.disabled:
        link_parts(directory)
        if isinstance(logger, WandbRun):
            interval = read_config(directory)["trainer"].get("val_check_interval")
            logger.epoch_axis = interval in (None, 1.0)
            logger.fill_in(rows, overview(directory).test)


def _earlier_parts(logger: WandbLogger, directory: Path) -> dict[str, Any]:
    """Mends and reads the run's parts; returns what the last one was called."""
    from google.protobuf.message import DecodeError

    before: dict[str, Any] = {}
    try:
        for part in parts(directory):
            mend(part)
        for part in parts(directory):
            read = list(records(part))
            for run in (record.run for record in read if record.HasField("run")):
                before = {"id": run.run_id, "name": run.display_name, "entity": run.entity, "group": run.run_group}
                before |= {"job_type": run.job_type, "notes": run.notes, "tags": list(run.tags)}
            if isinstance(logger, WandbRun):
                logger.remember(read)
    except (OSError, ValueError, DecodeError) as error:
        print(f"W&B's run so far can't be read, and rows may be missing or come twice: {error}", file=sys.stderr)
    return before


def _go_online_or_not(logger: WandbLogger) -> None:
    # By itself W&B would ask for a login on the terminal, and hang without a network.
    import wandb

    options, verified = logger._wandb_init, False
    mode = options["mode"] = "offline" if logger._offline else options.get("mode") or os.environ["WANDB_MODE"]
    online = mode == "online"
    try:
        # Verified before the run starts: W&B would keep the id of a run that failed to start.
        if online and not wandb.login(prompt=False, verify=True):
            raise wandb.errors.UsageError("there is no API key (`wandb login`)")
        verified = True
        _ = logger.experiment
    except (wandb.errors.Error, TimeoutError) as error:
        if not online:
            raise
        reason = str(error).splitlines()[0]
        print(f"W&B can't go online: {reason}; the run is kept offline, `wandb sync` uploads it later", file=sys.stderr)
        options["mode"] = "offline"  # W&B has already read the environment
        if verified:
            options["id"] = f"{options['id']}-offline"
        _ = logger.experiment


def reopen_wandb(directory: Path) -> WandbRun | None:
    """The W&B run of a run that was trained, with a new part; None where it has none, or none can be added."""
    try:
        config, state = read_config(directory), read_status(directory).get("state")
    except RunError:
        return None
    loggers = (config.get("trainer") or {}).get("logger") or []
    loggers = loggers if isinstance(loggers, list) else [loggers]
    given = [
        {**(one.get("init_args") or {}), **(one.get("dict_kwargs") or {})}
        for one in (default_logger() if one is True else one for one in loggers)
        if one["class_path"].endswith((".WandbRun", ".WandbLogger"))
    ]
    if not given or not os.access(directory / "wandb", os.W_OK):  # as of another user
        return None
    if state == RUNNING:
        print("W&B: the run is being trained, so these scores are not added to its W&B run", file=sys.stderr)
        return None
    options: dict[str, Any] = {name: value for name, value in given[0].items() if value is not None}
    options |= {"save_dir": str(directory.absolute()), "id": directory.name}  # W&B's service works elsewhere
    logger = WandbRun(**options)
    start_wandb(logger, directory, MetricsFile(directory / METRICS, sys.maxsize).rows())
    return logger


def finish_wandb(loggers: Iterable[Logger], status: int) -> None:
    """Ends the W&B runs that were started; the status tells W&B whether they failed."""
    for logger in started(loggers):
        logger.experiment.finish(exit_code=status)


def started(loggers: Iterable[Logger]) -> list[WandbLogger]:
    """The W&B runs that were started."""
    return [one for one in loggers if isinstance(one, WandbLogger) and one._experiment is not None]
