"""``lightning check``: the first minute with a configuration, before it trains.

It takes the arguments of ``fit``, looks at the data, the network and the optimizer on the configured device and in its
precision, and prints a line for each finding. It writes a picture of the first batch and nothing else.
"""

import itertools
import time
from collections.abc import Iterator
from textwrap import shorten
from typing import Annotated

from lightning.pytorch.cli import LightningArgumentParser
from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from resnet18.cli.arguments import say
from resnet18.commands import check_network
from resnet18.commands.check_data import Finding, balance, duplicates, pixels, target_name
from resnet18.commands.check_network import Batch, Network
from resnet18.commands.one_device import OneDevice
from resnet18.errors import RunError, counted
from resnet18.report.contact_sheet import contact_sheet
from resnet18.storage.checkpoints import load_pretrained
from resnet18.storage.tables import check_place

BATCHES = 4  # whose mean is the loss at the start
IMAGES = 32  # of each batch at most, so that a CPU is done in seconds
STYLES = {"ok": "green", "warn": "bold yellow", "wrong": "bold red", "skip": "dim"}


class Check(OneDevice):
    """The command; :meth:`start` checks and prints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        steps = Annotated[int, Field(ge=check_network.AT_LEAST)]
        parser.add_argument("--output", type=str, default="check.png", help="The picture of the first batch to write.")
        parser.add_argument("--steps", type=steps, default=60, help="The most steps to overfit one batch.")

    def start(self) -> None:
        """Checks, prints, and writes the picture; RunError, in the end, if anything was wrong."""
        began, data = time.monotonic(), self.datamodule
        self.picture = check_place(self.config.output)
        self.console = Console(highlight=False, markup=False, force_jupyter=False)
        if not self.console.is_terminal:
            self.console.width = 1000  # a line each, for grep
        if self.config.init_from:
            say(load_pretrained(self.model.backbone, self.config.init_from))
        network = Network(self.model, self.trainer, data.is_single_label)
        self.load_data()
        batches = [batch[:2] for batch in itertools.islice(data.train_dataloader(), BATCHES)]
        source = ", ".join(map(str, self.config_paths)) or type(data).__name__
        self.console.print(f"{source}: {self.title()}, seed {self.config.seed_everything}\n", soft_wrap=True)
        wrong, warned = list[str](), 0
        for finding in self._findings(network, batches):
            self._print(finding)
            wrong += [finding.name] if finding.level == "wrong" else []
            warned += finding.level == "warn"
        warnings = f"{warned or 'no'} warning{'' if warned == 1 else 's'}"
        self.console.print(f"\n{warnings}, {len(wrong) or 'nothing'} wrong, in {time.monotonic() - began:.1f} s")
        if wrong:
            raise RunError(f"wrong: {', '.join(wrong)}")

    def _findings(self, network: Network, batches: list[Batch]) -> Iterator[Finding]:
        data = self.datamodule
        assert data.train is not None
        assert data.val is not None
        train, val = data.train.labels.cpu(), data.val.labels.cpu()
        yield balance(data, train, val)
        yield pixels(data)
        yield from duplicates(data, train, val)
        yield from self._trained(network, [(images[:IMAGES], targets[:IMAGES]) for images, targets in batches])
        yield check_network.parameter_groups(network)
        yield self._drawn(*batches[0])

    def _trained(self, network: Network, batches: list[Batch]) -> Iterator[Finding]:
        batches = [(images.to(network.device), targets.to(network.device)) for images, targets in batches]
        batch = images, _ = batches[0]
        try:
            yield check_network.loss_at_start(network, batches)
            trace = check_network.overfit(network, batch, self.config.steps)
            yield check_network.one_batch(trace, len(images), self.datamodule.batch_size)
            yield check_network.gradients(trace, network)
            yield check_network.independence(network, images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            finding = Finding("network", f"fails on a batch of {'×'.join(map(str, images.shape))}")
            finding.wrong(shorten(str(error), 300))
            yield finding

    def _drawn(self, images: Tensor, targets: Tensor) -> Finding:
        images, names = images[:IMAGES], [target_name(self.datamodule, target) for target in targets[:IMAGES]]
        try:
            contact_sheet(images, names).save(self.picture)
        except (OSError, ValueError) as error:
            raise RunError(f"output: {self.picture} can't be written: {error}") from None
        count = counted(len(images), "training image")
        return Finding("picture", f"{count} as the network gets them: {self.picture}")

    def _print(self, finding: Finding) -> None:
        style = STYLES[finding.level]
        rows = Table.grid(padding=(0, 2))
        rows.add_column(width=5)
        rows.add_column(width=12)
        rows.add_row(Text(finding.level, style), Text(finding.name, "bold"), finding.numbers)
        for sentence in finding.advice:
            rows.add_row("", "", Text(f"→ {sentence}", style))
        for line in finding.details:
            rows.add_row("", "", Text(line, "dim"))
        self.console.print(rows)


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning check ARGUMENTS`` does."""
    Check(command, arguments).run()
