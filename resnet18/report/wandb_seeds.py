"""A group of seeds as one run of W&B, whose table of runs has no standard deviation over runs."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 10
ABOUT = ("protocol", "split_hash", "git", "command", "test_images")


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a ``seeds.json`` under the metric's name: ``test/top1_mean``, ``test/top1_sd``, …"""
    low, high = found.get("ci95") or (None, None)
    values = {"mean": found["mean"], "sd": found["sd"], "ci_low": low, "ci_high": high, "n": found["n"]}
    if other := found.get("against"):
        values |= {"difference": other["mean_difference"], "difference_p": other["p"]}
    return {f"{found['metric']}_{name}": value for name, value in values.items() if value is not None}


def log_summary(group: Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Logs a run of the type ``seeds`` into the group's directory, online if the environment says so.

    Args:
        config: That of one of the runs, whose project is taken.

    Returns:
        Whether there is such a run now: not of runs without W&B, nor if something went wrong, which is printed.
    """
    loggers = (config.get("trainer") or {}).get("logger") or []
    given = [
        one.get("init_args") or {}
        for one in (loggers if isinstance(loggers, list) else [loggers])
        if isinstance(one, dict) and one["class_path"].endswith((".WandbRun", ".WandbLogger"))
    ]
    if not given:
        return False
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it looks up a host in offline mode too
    import wandb

    mode = os.environ.get("WANDB_MODE") or "offline"
    if mode == "online" and (reason := _offline_reason()):
        print(f"W&B can't go online: {reason}; the summary is kept offline, `wandb sync` uploads it", file=sys.stderr)
        mode = "offline"
    try:
        run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            entity=given[0].get("entity"),
            project=given[0].get("project"),
            group=os.environ.get("WANDB_RUN_GROUP") or group.name,
            job_type="seeds",
            name=f"{group.name}, {found['n']} seeds",
            id=found["wandb_id"],
            resume="allow",
            dir=str(group.absolute()),
            config={name: found[name] for name in ABOUT if found.get(name) is not None},
            settings=wandb.Settings(silent=True, console="off", init_timeout=TIMEOUT_S, x_disable_stats=True),
        )
        run.summary.update(summary(found))
        run.finish()
        return True
    except (wandb.errors.Error, TimeoutError, OSError) as error:
        print(f"W&B has no summary of the seeds: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return False


def _offline_reason() -> str:
    """Why W&B's server can't be had; empty if it can."""
    import wandb

    try:  # by itself it would ask on the terminal
        return "" if wandb.login(prompt=False, verify=True) else "there is no API key (`wandb login`)"
    except (wandb.errors.Error, TimeoutError, OSError) as error:
        return str(error).partition("\n")[0]
