"""A group of seeds as one run of W&B, whose table of runs has no standard deviation over runs."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABOUT = ("protocol", "split_hash", "git", "command", "test_images")


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a ``seeds.json`` under the metric's name: ``test/top1_mean``, ``test/top1_sd``, …"""
    low, high = found.get("ci95") or (None, None)
    values = {"mean": found["mean"], "sd": found["sd"], "ci_low": low, "ci_high": high, "n": found["n"]}
    if other := found.get("against"):
        values |= {"difference": other["mean_difference"], "difference_p": other["p"]}
    return {f"{found['metric']}_{name}": value for name, value in values.items() if value is not None}


def log_summary(group: Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Logs a run of the type ``seeds`` into the group's directory; returns whether it did.

    It does not for runs without W&B, nor if something goes wrong, which is printed.
    """
    loggers = config["trainer"].get("logger") or []
    loggers = loggers if isinstance(loggers, list) else [loggers]
    loggers = [one for one in loggers if isinstance(one, dict) and "Wandb" in one["class_path"]]
    if not loggers:
        return False
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it looks up a host in offline mode too
    import wandb

    given, mode = loggers[0].get("init_args") or {}, os.environ.get("WANDB_MODE") or "offline"
    try:
        if mode == "online" and not wandb.login(prompt=False, verify=True):  # by itself it would ask on the terminal
            raise wandb.errors.UsageError("there is no API key (`wandb login`)")
        options: dict[str, Any] = {
            **{"mode": mode, "entity": given.get("entity"), "project": given.get("project"), "job_type": "seeds"},
            **{"group": os.environ.get("WANDB_RUN_GROUP") or group.name, "dir": str(group.absolute())},
            **{"name": f"{group.name}, {found['n']} seeds", "id": found["wandb_id"], "resume": "allow"},
            "config": {name: found[name] for name in ABOUT if found.get(name) is not None},
            "settings": wandb.Settings(silent=True, console="off", init_timeout=10, x_disable_stats=True),
        }
        run = wandb.init(**options)
        run.summary.update(summary(found))
        run.finish()
    except (wandb.errors.Error, TimeoutError, OSError) as error:
        reason = str(error).partition("\n")[0]
        print(f"W&B has no summary of the seeds: {reason}; the same command tries again", file=sys.stderr)
        return False
    return True
