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
from dataclasses import dataclass, field
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
from resnet18.commands import OneDevice
from resnet18.commands.measure import Clock, Probe, bare, pull, ready_ahead, stopped_at_once
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import RunError, counted
from resnet18.storage.provenance import measured_with, provenance

ROUNDS = 3
FEED_S = 0.3  # seconds that the feed alone is measured for at least: a batch of a resident one takes next to none
SPARE = 200  # more steps than are ever taken beside the timed ones
BOUND = 0.8  # the share of a step from which one thing is said to limit it
FEED, BARE, FIT = "the feed alone", "the bare loop", "Trainer.fit"


@dataclass
class Measured:
    """A loop's times, one clock a round."""

    name: str
    batch_size: int
    clocks: list[Clock] = field(default_factory=list)

    @property
    def ms(self) -> float:
        return statistics.median(clock.step_ms for clock in self.clocks)

    @property
    def host(self) -> float | None:
        """Milliseconds that Python needs to issue a step; on an accelerator only."""
        return statistics.median(times) if (times := [ms for clock in self.clocks for ms in clock.host_ms]) else None

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch_size / self.ms

    @property
    def peak_bytes(self) -> int | None:
        return max((clock.peak_bytes for clock in self.clocks if clock.peak_bytes is not None), default=None)

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "images_per_s": self.images_per_s,
            "ms_a_step": self.ms,
            "host_ms_a_step": self.host,
            "peak_memory_bytes": self.peak_bytes,
            "first_step_s": self.clocks[0].first_s,
            "rounds_ms_a_step": [clock.step_ms for clock in self.clocks],
        }


def extra_ms(fit: Measured, bare: Measured) -> float:
    """What ``Trainer.fit`` takes longer than the bare loop, in ms a step: the median of the rounds' differences."""
    return statistics.median(one.step_ms - other.step_ms for one, other in zip(fit.clocks, bare.clocks, strict=True))


def limited_by(feed: Measured, bare: Measured, fit: Measured) -> str:
    """What limits a configuration, in a line."""
    step, extra = f"{fit.ms:,.1f} ms of a step", extra_ms(fit, bare)
    alone = f"the feed alone takes {feed.ms:,.1f} of the {step}"
    if feed.ms >= BOUND * fit.ms:
        return f"feed-bound: {alone}; more workers or smaller images would help"
    if fit.host is not None and fit.host >= BOUND * fit.ms:
        remedy = "a larger batch or model.compile would help"
        return f"host-bound: to issue a step takes Python {fit.host:,.1f} of the {step}; {remedy}"
    if fit.host is None and extra >= (1 - BOUND) * fit.ms:
        return f"host-bound: the Trainer itself takes {extra:,.1f} of the {step}; a larger batch would help"
    issued = "" if fit.host is None else f", to issue one {fit.host:,.1f}"
    return f"device-bound: {alone}{issued}; the rest is computing"


class Bench(OneDevice):
    """The command, parsed and made; :meth:`start` measures and prints."""

    resumed: Path | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        kind, text = Annotated[int, Field(ge=1)], "Timed steps of each loop; more of them on a GPU."
        parser.add_argument("--steps", type=kind, default=20, help=text)
        parser.add_argument("--json", type=str | None, help="File for everything that was measured.")

    def start(self) -> None:
        """Measures, prints, and writes the file.

        Raises:
            UsageError: For a value that can't be measured with.
            RunError: For a file that can't be written.
        """
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
        """What was measured, printed too; ``directory`` takes the runs."""
        self.set_up()
        rows = self.in_turns((FEED, BARE, FIT), self.measure_row)
        limit = limited_by(*rows)
        self._print(*rows)
        self.console.print(limit, soft_wrap=True)
        return {
            "command": shlex.join(["lightning", "bench", *self.arguments]),
            "rounds": ROUNDS,
            "steps_a_round": self.steps,
            "batch_size": self.datamodule.batch_size,
            "device": str(self.device),
            "precision": self.trainer.precision,
            "rows": [row.record() for row in rows],
            "trainer_extra_ms_a_step": extra_ms(rows[2], rows[1]),
            "limit": limit,
            **measured_with(provenance(self.config.seed_everything, self.datamodule.split_hash)),
        }

    def set_up(self) -> None:
        """Loads the data, and says what is measured."""
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
        batches = f"batches of {data.batch_size:,}, {data.feed_note()}"
        self.console.print(f"{self.title()}; {batches}", soft_wrap=True)

    def trainer_of(self, callbacks: list[Any], **settings: Any) -> Trainer:
        """A Trainer whose run is only as long as the probe among its callbacks wants."""
        self.config_init["best"], self.config_init["last"] = BestCheckpoint(), LastCheckpoint()
        epochs = max(self.config.trainer.max_epochs or 0, self.steps + SPARE)  # enough, of one batch each
        endless = {"max_epochs": epochs, "max_steps": -1, **dict.fromkeys(("min_epochs", "min_steps", "max_time"))}
        lean = {"limit_val_batches": 0, "fast_dev_run": False, "logger": False, "enable_checkpointing": False}
        return self.instantiate_trainer(**{**endless, **lean, **settings, "callbacks": callbacks})

    def fit(self, model: LightningModule, probe: Probe, loader: Any, callbacks: Any = (), **settings: Any) -> Clock:
        trainer = self.datamodule.trainer = self.trainer_of([*callbacks, probe], **settings)  # the loader asks it
        with warnings.catch_warnings():
            # What it has to say of a run without validation, or without a model.
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
        # Those that watch a metric wait for a validation, and there is none. Each run has its own copies.
        given = [copy.deepcopy(one) for one in as_list(trainer["callbacks"]) if getattr(one, "monitor", None) is None]
        settings = {"enable_checkpointing": trainer["enable_checkpointing"]}
        return self.fit(self.model, Probe(self.steps), self.loader, given, **settings)

    def in_turns(self, names: Sequence[str], measure: Callable[[str], Clock]) -> list[Measured]:
        """Measures each of the loops once a round."""
        rows = [Measured(name, self.datamodule.batch_size) for name in names]
        # Redrawn between the measurements: a thread of its own would disturb them.
        bar: dict[str, Any] = {"auto_refresh": False, "transient": True, "disable": not self.console.is_terminal}
        for row in track(ROUNDS * rows, "measuring", console=self.console, **bar):
            row.clocks.append(measure(row.name))
        return rows

    def _print(self, feed: Measured, bare: Measured, fit: Measured) -> None:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("")
        for column in ("images/s", "ms a step", "host ms a step", "peak memory")[: 2 if fit.host is None else 4]:
            table.add_column(column, justify="right", no_wrap=True)
        for row in (feed, bare, fit):
            cells = [f"{row.images_per_s:,.0f}", f"{row.ms:,.2f}"]
            if row.host is not None:
                memory = "not measured" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f} GB"
                cells += [f"{row.host:,.2f}", memory]
            table.add_row(row.name, *cells)
        self.console.print(table)
        extra, compiling = extra_ms(fit, bare), bare.clocks[0].first_s - bare.ms / 1000
        notes = [
            f"medians of {ROUNDS} rounds of {counted(self.steps, 'step')}, in turns, after a warm-up",
            f"Trainer.fit − bare loop: {extra:+.2f} ms a step, {100 * extra / bare.ms:+.1f} %",
        ]
        if self.config.trainer.devices not in (1, "1", "auto"):
            notes.append(f"on one device, not on trainer.devices = {self.config.trainer.devices}")
        if compiling > 1:
            notes.append(f"the first step took {compiling:,.1f} s longer, which is not counted")
        self.console.print("\n".join(notes), soft_wrap=True)


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning bench ARGUMENTS`` does."""
    Bench(command, arguments).run()
