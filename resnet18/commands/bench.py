"""``lightning bench``: how fast a configuration trains on this machine, and what limits it.

The feed alone, the bare loop that one would write by hand, and ``Trainer.fit`` do the same work, in turns, over several
rounds of one process; medians over the rounds are shown. Nothing is left behind but the file of ``--json``.
"""

import copy
import json
import shlex
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnet18.cli.trainer_parts import as_list
from resnet18.commands.measure import Clock, Probe, bare, pull, ready_ahead, stopped_at_once
from resnet18.commands.one_device import OneDevice
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import RunError, counted
from resnet18.storage.provenance import measured_with, provenance

ROUNDS = 3
FEED_S = 0.3  # seconds that the feed alone is measured for at least: a batch of a resident one takes next to none
SPARE = 200  # more steps than are ever taken beside the timed ones
BOUND = 0.8  # the share of a step from which one part counts as the limit
FEED, BARE, FIT = "the feed alone", "the bare loop", "Trainer.fit"
Row = dict[str, Any]  # a loop's numbers, as in the JSON file


def row_of(name: str, batch_size: int, clocks: Sequence[Clock]) -> Row:
    """A loop's numbers over all rounds."""
    ms = statistics.median(clock.step_ms for clock in clocks)
    host_ms = [ms for clock in clocks for ms in clock.host_ms]
    return {
        "name": name,
        "images_per_s": 1000 * batch_size / ms,
        "ms_a_step": ms,
        "host_ms_a_step": statistics.median(host_ms) if host_ms else None,  # to issue one; on an accelerator only
        "peak_memory_bytes": max((clock.peak_bytes for clock in clocks if clock.peak_bytes), default=None),
        "first_step_s": clocks[0].first_s,
        "rounds_ms_a_step": [clock.step_ms for clock in clocks],
    }


def extra_ms(fit: Row, bare: Row) -> float:
    """How much longer ``Trainer.fit`` takes than the bare loop, in ms a step: the median over the rounds."""
    rounds = zip(fit["rounds_ms_a_step"], bare["rounds_ms_a_step"], strict=True)
    return statistics.median(ours - alone for ours, alone in rounds)


def limited_by(feed: Row, bare: Row, fit: Row) -> str:
    """The line about what limits a configuration."""
    ms, host, extra = fit["ms_a_step"], fit["host_ms_a_step"], extra_ms(fit, bare)
    alone = f"the feed alone takes {feed['ms_a_step']:,.1f} of the {ms:,.1f} ms of a step"
    if feed["ms_a_step"] >= BOUND * ms:
        return f"feed-bound: {alone}; more workers or smaller images would help"
    if host is not None and host >= BOUND * ms:
        remedy = "a larger batch or model.compile would help"
        return f"host-bound: to issue a step takes Python {host:,.1f} of the {ms:,.1f} ms of a step; {remedy}"
    if host is None and extra >= (1 - BOUND) * ms:
        return f"host-bound: the Trainer itself takes {extra:,.1f} of the {ms:,.1f} ms of a step; try a larger batch"
    issued = "" if host is None else f", to issue one {host:,.1f}"
    return f"device-bound: {alone}{issued}; the rest is computing"


class Bench(OneDevice):
    """The command; :meth:`start` measures and prints."""

    resumed: Path | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        kind, text = Annotated[int, Field(ge=1)], "Timed steps of each loop; more of them on a GPU."
        parser.add_argument("--steps", type=kind, default=20, help=text)
        parser.add_argument("--json", type=str | None, help="File for everything that was measured.")

    def start(self) -> None:
        """Measures, prints, and writes the file."""
        path = Path(self.config.json or "bench.json")
        if path.is_dir() or not path.parent.is_dir():
            raise RunError(f"json: {path} can't be written")
        self.console = Console(file=sys.stdout, highlight=False, markup=False, force_jupyter=False)
        with stopped_at_once(), tempfile.TemporaryDirectory() as place:
            self.directory = Path(place)
            result = self.results()
        if self.config.json:
            path.write_text(json.dumps(result, indent=2) + "\n")

    def results(self) -> dict[str, Any]:
        """Measures and prints; ``directory`` takes the runs."""
        self.set_up()
        rows = self.in_turns((FEED, BARE, FIT), self.measure_row)
        self._print(*rows)
        self.console.print(limit := limited_by(*rows), soft_wrap=True)
        return {
            "command": shlex.join(["lightning", "bench", *self.arguments]),
            "rounds": ROUNDS,
            "steps_a_round": self.steps,
            "batch_size": self.datamodule.batch_size,
            "device": str(self.device),
            "precision": self.trainer.precision,
            "rows": rows,
            "trainer_extra_ms_a_step": extra_ms(rows[2], rows[1]),
            "limit": limit,
            **measured_with(provenance(self.config.seed_everything, self.datamodule.split_hash)),
        }

    def set_up(self) -> None:
        """Loads the data and prints what is measured."""
        data, self.device = self.datamodule, self.trainer.strategy.root_device
        self.load_data()
        if isinstance(self.model.make_schedule(self.model.make_optimizer(), total_steps=1), ReduceLROnPlateau):
            self.model.schedule = None  # it waits for a validation, and there is none
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        accumulate = self.trainer.accumulate_grad_batches
        self.steps = -(-self.config.steps // (ROUNDS * accumulate)) * accumulate  # whole steps of the optimizer
        self.command = "fit"  # from here on a Trainer is given what `fit` gives it
        data.trainer = self.trainer_of([])
        self.loader = data.train_dataloader()
        self.console.print(f"{self.title()}; batches of {data.batch_size:,}, {data.feed_note()}", soft_wrap=True)

    def trainer_of(self, callbacks: list[Any], **settings: Any) -> Trainer:
        """A Trainer that runs until the probe among its callbacks stops it."""
        self.config_init["best"], self.config_init["last"] = BestCheckpoint(), LastCheckpoint()
        epochs = max(self.config.trainer.max_epochs or 0, self.steps + SPARE)  # enough, of one batch each
        endless = {"max_epochs": epochs, "max_steps": -1, **dict.fromkeys(("min_epochs", "min_steps", "max_time"))}
        lean = {"limit_val_batches": 0, "fast_dev_run": False, "logger": False, "enable_checkpointing": False}
        return self.instantiate_trainer(**{**endless, **lean, **settings, "callbacks": callbacks})

    def fit(self, model: LightningModule, probe: Probe, loader: Any, callbacks: Any = (), **settings: Any) -> Clock:
        trainer = self.datamodule.trainer = self.trainer_of([*callbacks, probe], **settings)  # the loader asks it
        with warnings.catch_warnings():
            # Lightning warns of a run without validation, or without a model.
            warnings.filterwarnings("ignore", module=r"lightning\.")
            trainer.fit(model, train_dataloaders=loader)
        return probe.clock

    def measure_row(self, name: str) -> Clock:
        if name == FEED:
            self.datamodule.trainer = self.trainer_of([])
            clock = Clock(self.device, self.steps, FEED_S, ready_ahead(self.loader))
            pull(self.loader, self.device, clock)
            return clock
        self.model.load_state_dict(self.weights)
        if name == BARE:
            return self.fit(self.model, Probe(self.steps, bare), self.loader)
        trainer = self.config_init["trainer"]
        # A callback with a monitor would wait for a validation, and there is none. Each run has its own copies.
        given = [copy.deepcopy(one) for one in as_list(trainer["callbacks"]) if getattr(one, "monitor", None) is None]
        settings = {"enable_checkpointing": trainer["enable_checkpointing"]}
        return self.fit(self.model, Probe(self.steps), self.loader, given, **settings)

    def in_turns(self, names: Sequence[str], measure: Callable[[str], Clock]) -> list[Row]:
        """Measures each loop once a round."""
        clocks: dict[str, list[Clock]] = {name: [] for name in names}
        # Redrawn between the measurements: a thread of its own would disturb them.
        bar: dict[str, Any] = {"auto_refresh": False, "transient": True, "disable": not self.console.is_terminal}
        for name in track(ROUNDS * list(names), "measuring", console=self.console, **bar):
            clocks[name].append(measure(name))
        return [row_of(name, self.datamodule.batch_size, of) for name, of in clocks.items()]

    def _print(self, feed: Row, bare: Row, fit: Row) -> None:
        table = Table("", box=SIMPLE_HEAD)
        for column in ("images/s", "ms a step", "host ms a step", "peak memory")[: 4 if fit["host_ms_a_step"] else 2]:
            table.add_column(column, justify="right", no_wrap=True)
        for row in (feed, bare, fit):
            cells = [row["name"], f"{row['images_per_s']:,.0f}", f"{row['ms_a_step']:,.2f}"]
            if fit["host_ms_a_step"]:
                cells += [f"{row['host_ms_a_step']:,.2f}", f"{(row['peak_memory_bytes'] or 0) / 1e9:.2f} GB"]
            table.add_row(*cells)
        self.console.print(table)
        extra, compiling = extra_ms(fit, bare), bare["first_step_s"] - bare["ms_a_step"] / 1000
        notes = [
            f"medians of {ROUNDS} rounds of {counted(self.steps, 'step')}, in turns, after a warm-up",
            f"Trainer.fit − bare loop: {extra:+.2f} ms a step, {100 * extra / bare['ms_a_step']:+.1f} %",
        ]
        if self.config.trainer.devices not in (1, "1", "auto"):
            notes.append(f"on one device, not on trainer.devices = {self.config.trainer.devices}")
        if compiling > 1:
            notes.append(f"the first step took {compiling:,.1f} s longer, which is not counted")
        self.console.print("\n".join(notes), soft_wrap=True)


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning bench ARGUMENTS`` does."""
    Bench(command, arguments).run()
