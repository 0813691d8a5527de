"""Starts and ends W&B without questions, an account or a network; in parts that lie in the run's directory."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lightning.pytorch.loggers import Logger, WandbLogger

from resnet18.errors import RunError
from resnet18.storage.loggers import ONLINE_TIMEOUT_S, Rows, WandbRun, default_logger, first_line
from resnet18.storage.metrics_file import MetricsFile
from resnet18.storage.overview import overview
from resnet18.storage.records import METRICS, PROVENANCE, read_config, read_json
from resnet18.storage.status import RUNNING, read_status
from resnet18.storage.wandb_parts import link_parts, mend, parts, records

FINISH_TIMEOUT_S = "60"
ENVIRONMENT = {  # of options that a run keeps
    **{"name": "WANDB_NAME", "entity": "WANDB_ENTITY", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE"},
    **{"notes": "WANDB_NOTES", "tags": "WANDB_TAGS"},
}


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
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT_S)  # else it waits for ever


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
        print(
            f"W&B can't go online: {first_line(error)}; the run is kept offline, `wandb sync` uploads it later",
            file=sys.stderr,
        )
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
        place, began = Path(logger.experiment.dir).parent, time.monotonic()
        logger.experiment.finish(exit_code=status)
        if time.monotonic() - began >= float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT_S)):
            print(f"W&B's server does not answer; the rest is uploaded by: wandb sync {place}", file=sys.stderr)


def started(loggers: Iterable[Logger]) -> list[WandbLogger]:
    """The W&B runs that were started."""
    return [one for one in loggers if isinstance(one, WandbLogger) and one._experiment is not None]
