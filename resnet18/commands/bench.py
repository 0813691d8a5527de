"""``lightning bench``: how fast a configuration trains on this machine, and what limits it.

The feed alone, the bare loop that one would write by hand, and ``Trainer.fit`` do the same work, in turns, over several
rounds of one process; and so do the rungs of :mod:`ladder`. Medians over the rounds are shown.
Nothing is left behind but the file of ``--json``.
"""

import copy
import itertools
import json
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnet18.cli.program import Program
from resnet18.commands import on_one_device
from resnet18.commands.ladder import COMPILED, Ladder, rungs
from resnet18.commands.measure import (
    HALF,
    TRUE,
    Measured,
    Nothing,
    Probe,
    bare,
    extra_ms,
    limited_by,
    pull,
    stopped_at_once,
)
from resnet18.engine.checkpointing import BestCheckpoint, LastCheckpoint
from resnet18.errors import RunError, UsageError, counted
from resnet18.storage.provenance import measured_with, provenance

ROUNDS = 3
FEED_S = 0.3  # seconds that the feed alone is measured for at least: a batch of a resident one takes next to none
SPARE = 200  # more steps than are ever taken beside the timed ones
RUNG_SHARE = 10  # a rung takes a tenth of the steps
FEED, BARE, FIT = "the feed alone", "the bare loop", "Trainer.fit"


class Bench(Program):
    """The command, parsed and made; :meth:`start` measures and prints."""

    resumed: Path | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--steps", type=int, default=20, help="Timed steps of each loop; more of them on a GPU.")
        parser.add_argument("--json", type=str | None, help="File for everything that was measured.")
        parser.add_argument("--ladder", type=bool, default=True, help="Measure the loop from stock to this one, too.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # One process is measured, whatever number is to train.
        one = on_one_device(self.config_init["trainer"]["devices"])
        return super().instantiate_trainer(**one, **kwargs, enable_progress_bar=False)

    def start(self) -> None:
        """Measures, prints, and writes the file.

        Raises:
            UsageError: For a value that can't be measured with.
            RunError: For a file that can't be written.
        """
        if self.config.steps < 1:
            raise UsageError(f"steps must be at least 1, not {self.config.steps}")
        if self.trainer.precision not in (*HALF, *TRUE):
            raise UsageError(f"trainer.precision: the bare loop knows {', '.join((*HALF, *TRUE))}")
        self._try_to_write()
        self.device = self.trainer.strategy.root_device
        self.console = Console(file=sys.stdout, highlight=False, markup=False, force_jupyter=False)
        with stopped_at_once(), tempfile.TemporaryDirectory() as place:
            self.directory = Path(place)
            self._set_up()
            self._title()
            rows = self._rows()
            self._show_rows(rows)
            ladder = self._rungs(self.ladder) if self.ladder else []
            if ladder:
                self._show_ladder(ladder)
        limit = limited_by(*rows)
        self.console.print(limit, soft_wrap=True)
        if self.config.json:
            self._write(rows, ladder, limit)

    def _try_to_write(self) -> None:
        if not self.config.json:
            return
        path = Path(self.config.json)
        there = path.exists()
        try:
            with path.open("a"):
                pass
        except OSError as error:
            raise RunError(f"json: {path} can't be written: {error.strerror}") from None
        if not there:
            path.unlink()

    def _set_up(self) -> None:
        try:
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
        except (ValueError, TypeError) as error:
            raise self.usage_error(error, "data") from error
        self.check_recipe()
        schedule = self.model.make_schedule(self.model.make_optimizer(), total_steps=1)
        if isinstance(schedule, ReduceLROnPlateau):
            self.model.schedule = None  # it waits for a validation, and there is none
        # A copy, and before the model belongs to a Trainer.
        self.ladder = Ladder(self.model, self.datamodule) if self.config.ladder else None
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        accumulate = self.trainer.accumulate_grad_batches
        share = -(-self.config.steps // ROUNDS)
        self.steps = -(-share // accumulate) * accumulate  # as many of the optimizer's in every block
        self.rung_steps = -(-max(1, self.config.steps // RUNG_SHARE) // accumulate) * accumulate
        self.epochs = max(self.config.trainer.max_epochs or 0, self.steps + SPARE)  # enough, of one batch each
        # From here on a Trainer is given what `fit` gives it.
        self.command = "fit"
        self.datamodule.trainer = self._trainer_of([], as_configured=False)
        self.loader = self.datamodule.train_dataloader()

    def _trainer_of(self, callbacks: list[Any], as_configured: bool) -> Trainer:
        """A Trainer whose run is only as long as the probe among its callbacks wants."""
        self.config_init["best"], self.config_init["last"] = BestCheckpoint(), LastCheckpoint()
        settings: dict[str, Any] = {
            "callbacks": callbacks,
            "logger": False,  # metrics.csv remains
            "max_epochs": self.epochs,
            "max_steps": -1,
            "limit_val_batches": 0,
            "fast_dev_run": False,
        }
        settings |= dict.fromkeys(("min_epochs", "min_steps", "max_time"))
        return self.instantiate_trainer(**settings, **({} if as_configured else {"enable_checkpointing": False}))

    def _configured_callbacks(self) -> list[Any]:
        given = self.config_init["trainer"]["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        # Each run its own; and without those that wait for a validation, which there is none of.
        return [copy.deepcopy(callback) for callback in given if getattr(callback, "monitor", None) is None]

    def _measure(self, model: LightningModule, probe: Probe, loader: Any, as_configured: bool = False) -> Probe:
        given = self._configured_callbacks() if as_configured else []
        trainer = self._trainer_of([*given, probe], as_configured)
        self.datamodule.trainer = trainer  # the loader asks it where to begin
        with warnings.catch_warnings():
            # What it has to say of a run without validation, or without a model.
            warnings.filterwarnings("ignore", module=r"lightning\.")
            trainer.fit(model, train_dataloaders=loader)
        return probe

    def _rows(self) -> list[Measured]:
        rows = [Measured(name, self.datamodule.batch_size) for name in (FEED, BARE, FIT)]
        with self._progress(ROUNDS * len(rows)) as advance:
            for _ in range(ROUNDS):
                for row in rows:
                    advance(row.name)
                    row.add(self._measure_row(row.name))
        return rows

    def _measure_row(self, name: str) -> Probe:
        if name == FEED:
            return self._measure(Nothing(), Probe(self.steps, pull, FEED_S), self.loader)
        self.model.load_state_dict(self.weights)
        loop = bare if name == BARE else None
        return self._measure(self.model, Probe(self.steps, loop), self.loader, as_configured=name == FIT)

    def _rungs(self, ladder: Ladder) -> list[Measured]:
        batch_size, loops = self.datamodule.batch_size, rungs(self.device, str(self.trainer.precision), self.datamodule)
        shown = [Measured(rung.name, batch_size, missing=rung.missing) for rung in loops]
        there = [(rung, measured) for rung, measured in zip(loops, shown, strict=True) if not rung.missing]
        with self._progress(ROUNDS * len(there)) as advance:
            for _ in range(ROUNDS):
                for rung, measured in there:
                    advance(rung.name)
                    loader = self.loader if rung.own_feed else [0]  # the stock loader is the ladder's own
                    probe = Probe(self.rung_steps, ladder.loop(rung), memory=False)
                    measured.add(self._measure(Nothing(), probe, loader))
        ladder.close()
        return shown

    @contextmanager
    def _progress(self, total: int) -> Iterator[Callable[[str], None]]:
        """A bar on a terminal; redrawn between the measurements, for a thread of its own would disturb them."""
        columns = (BarColumn(bar_width=12), MofNCompleteColumn(), TextColumn("{task.description}"))
        bar = Progress(*columns, console=self.console, auto_refresh=False, transient=True)
        task, done = bar.add_task("", total=total), itertools.count()

        def advance(name: str) -> None:
            bar.update(task, completed=next(done), description=name)
            bar.refresh()

        if not self.console.is_terminal:
            yield lambda name: None
            return
        with bar:
            yield advance

    def _title(self) -> None:
        backbone, data = self.model.backbone, self.datamodule
        count = sum(parameter.numel() for parameter in backbone.parameters())
        self.console.print(
            f"{type(backbone).__name__}, {count:,} parameters, on {self.device}, {self.trainer.precision}; batches of "
            f"{data.batch_size:,}, {data.feed_note()}",
            soft_wrap=True,
        )

    def _show_rows(self, rows: list[Measured]) -> None:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("")
        for column in ("images/s", "ms a step", "host ms a step", "peak memory"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            host = "–" if row.host is None else f"{row.host:,.2f}"
            memory = f"{max(row.peak_bytes) / 1e9:.2f} GB" if row.peak_bytes else "not measured"
            table.add_row(row.name, f"{row.images_per_s:,.0f}", f"{row.ms:,.2f}", host, memory)
        self.console.print(table)
        _, bare_row, fit_row = rows
        extra = extra_ms(fit_row, bare_row)
        notes = [
            f"medians of {ROUNDS} rounds of {counted(self.steps, 'step')}, in turns, after a warm-up",
            f"Trainer.fit − bare loop: {extra:+.2f} ms a step, {100 * extra / bare_row.ms:+.1f} %",
        ]
        asked = self.config.trainer.devices
        if asked not in (1, "1", "auto") and not (isinstance(asked, list) and len(asked) == 1):
            notes.append(f"on one device, not on trainer.devices = {asked}")
        if self.device.type != "cuda":
            notes.append("host ms, to issue a step before the device is done with it, has no meaning on a CPU")
            notes.append("peak memory is the resident set of this process, libraries included, workers not")
        if self.model.backbone._compiled_call_impl is not None:
            notes.append(f"compiled in {bare_row.first_s[0] - bare_row.ms / 1000:,.1f} s, which is not counted")
        self.console.print("\n".join(notes), soft_wrap=True)

    def _show_ladder(self, ladder: list[Measured]) -> None:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("the bare loop")
        for column in ("images/s", "× before", "× first", "compiled in"):
            table.add_column(column, justify="right", no_wrap=True)
        there = [rung for rung in ladder if not rung.missing]
        before = there[0]
        for rung in there:
            compiled = rung.first_s[0] - rung.ms / 1000 if rung.name == COMPILED else None
            table.add_row(
                rung.name,
                f"{rung.images_per_s:,.0f}",
                f"{before.ms / rung.ms:.2f}",
                f"{there[0].ms / rung.ms:.2f}",
                "" if compiled is None else f"{compiled:,.1f} s",
            )
            before = rung
        self.console.print(table)
        for rung in ladder:
            if rung.missing:
                self.console.print(f"without {rung.name.removeprefix('+ ')}: {rung.missing}", soft_wrap=True)

    def _write(self, rows: list[Measured], ladder: list[Measured], limit: str) -> None:
        result = {
            "command": shlex.join(["lightning", "bench", *self.arguments]),
            "rounds": ROUNDS,
            "steps_a_round": self.steps,
            "steps_a_round_of_a_rung": self.rung_steps,
            "batch_size": self.datamodule.batch_size,
            "device": str(self.device),
            "precision": self.trainer.precision,
            "rows": [row.record() for row in rows],
            "trainer_extra_ms_a_step": extra_ms(rows[2], rows[1]),
            "ladder": [rung.record() for rung in ladder],
            "limit": limit,
            **measured_with(provenance(self.config.seed_everything, self.datamodule.split_hash)),
        }
        Path(self.config.json).write_text(json.dumps(result, indent=2) + "\n")


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning bench ARGUMENTS`` does."""
    program = Bench(command, arguments)
    try:
        program.start()
    finally:
        program.datamodule.teardown("fit")
