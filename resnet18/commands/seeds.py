"""``lightning seeds``: trains a configuration with several seeds, and says what the mean is worth.

Takes the options of ``lightning fit``. Each seed is a run in ``runs/GROUP/seed-K``, tested once. What is done is not
done again, so the same command continues after a kill, and a larger ``--n`` adds seeds.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from resnet18.cli.children import train
from resnet18.cli.plain import PlainParser, plain_name, whole
from resnet18.errors import RunError, UsageError, hint
from resnet18.report.seed_groups import SEED, SEEDS, check_protocol, choose_metric, finished, lines, read_group, sum_up
from resnet18.report.wandb_seeds import log_summary, summary
from resnet18.storage.overview import differences, run_directories, shown
from resnet18.storage.records import new_run_id, read_json, write_json
from resnet18.storage.status import DIVERGED

RUNS = Path("runs")
OURS = {SEED: "--first and --n choose the seeds", "run_dir": "--group names the directory below runs/"}
OURS |= {"ckpt_path": "what was stopped is resumed by itself", "print_config": "lightning fit --print_config does"}


def run(command: str, arguments: list[str]) -> None:
    """Runs ``lightning seeds --config C [--n 5] [--against GROUP]``."""
    parser = PlainParser(command, description=__doc__, epilog="All other options are those of lightning fit.")
    parser.add_argument("--config", "-c", action="append", default=[], metavar="FILE", help="As of lightning fit.")
    parser.add_argument("--n", type=whole(1), default=5, help="How many seeds; 5 by default.")
    parser.add_argument("--first", type=whole(0), default=1, help="The first of them; 1 by default.")
    parser.add_argument("--group", help="The directory below runs/; EXPERIMENT-seeds by default.")
    parser.add_argument("--against", metavar="GROUP", help="Another group of seeds, compared with this one in pairs.")
    parser.add_argument("--metric", help="What is summed up; test/top1 by default.")
    options, others = parser.parse_known_args(arguments)
    for name in (argument.partition("=")[0].removeprefix("--") for argument in others):
        if name in OURS:
            raise UsageError(f"--{name} can't be given: {OURS[name]}")
    fit = [*(f"--config={path}" for path in options.config), *others]
    config = resolve(fit)
    source = config["data"]["class_path"].rpartition(".")[2].lower()
    experiment = config.get("experiment") or (Path(options.config[0]).stem if options.config else source)
    group = RUNS / plain_name("--group", options.group or f"{experiment}-seeds")
    refuse_group(group, config)
    against = find_group(options.against, group) if options.against else None
    if against:
        check_protocol(config, next(iter(read_group(against).values())).config, against.name)
    if done := finished(group):
        choose_metric(done.values(), options.metric)
    for seed in range(options.first, options.first + options.n):
        train(group, f"seed-{seed}", [*fit, f"--{SEED}={seed}"])
        before, found = read_json(group / SEEDS), sum_up(group, options.metric, against)
        found |= {"command": shlex.join(["lightning", command, *arguments])}
        found |= {"wandb_id": before.get("wandb_id") or new_run_id(), "published": before.get("published")}
        write_json(group / SEEDS, found)
    print("", *lines(found), sep="\n")
    if found["n"]:
        publish(group, found)
    if diverged := [one["directory"] for one in found["per_seed"] if one["state"] == DIVERGED]:
        raise RunError(f"{', '.join(diverged)} diverged, and the mean is that of the others")


def resolve(options: list[str]) -> dict[str, Any]:
    """The whole configuration that ``fit`` makes of its options; UsageError for what it refuses, or seeds can't use."""
    command = [sys.executable, "-m", "resnet18", "fit", *options, "--print_config"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        text = re.sub(r"^.* fit: ", "", "\n".join(done.stderr.strip().splitlines()[-8:]))
        raise UsageError(text) if done.returncode == 2 else RunError(text)
    config = yaml.safe_load(done.stdout)
    for key in ("run_dir", "ckpt_path"):  # in a file
        if config.get(key):
            raise UsageError(f"{key} can't be given: {OURS[key]}")
    if config["data"] is None:
        raise UsageError("data must be given; see configs/")
    if "LearningRateFinder" in str(config["trainer"]["callbacks"]):
        raise UsageError("LearningRateFinder can't be given: every seed would have a rate of its own")
    return config


def find_group(name: str, group: Path) -> Path:
    """The directory of the group to compare with; UsageError where there is none, or it is the same."""
    found = next((place for place in (RUNS / name, Path(name)) if read_group(place)), None)
    if found is None:
        what = "holds no runs of seeds" if (RUNS / name).is_dir() else f"is not below {RUNS}"
        there = {run.parent.name for run in run_directories(RUNS) if run.name.startswith("seed-")} - {group.name}
        raise UsageError(f"--against: {name} {what}{hint(name, there)}")
    if found.resolve() == group.resolve():
        raise UsageError(f"--against: {name} is this group itself; --group NAME starts another")
    return found


def refuse_group(group: Path, config: Mapping[str, Any]) -> None:
    """Raises UsageError for a group's directory that holds something else, or runs of another configuration."""
    runs, way_out = read_group(group), "; --group NAME starts another group"
    if strange := [run.name for run in run_directories(group) if run not in {one.directory for one in runs.values()}]:
        raise UsageError(f"{group} holds runs that are not of seeds: {', '.join(strange[:3])}{way_out}")
    for run in runs.values():
        stored = {name: part for name, part in config.items() if name in run.config}
        changed = [
            f"{key} is {shown(here)} here and {shown(there)} there"
            for key, (here, there) in differences([stored, run.config]).items()
            # What fit fills in: the direction follows from the metric, the precision from the machine.
            if key != SEED and not key.endswith(".mode") and not (key == "trainer.precision" and here is None)
        ]
        if changed:
            raise UsageError(f"{group} holds runs of another configuration: {'; '.join(changed)}{way_out}")


def publish(group: Path, found: dict[str, Any]) -> None:
    """Writes the report, and the summary into W&B unless it has these numbers already."""
    from resnet18.report.page import REPORT, write_comparison

    runs = list(finished(group).values())
    print(f"\nreport  {write_comparison([group / run.name for run in runs], group / REPORT)}")
    if (numbers := summary(found)) != found["published"] and log_summary(group, found, runs[0].config):
        write_json(group / SEEDS, {**found, "published": numbers})
