"""``lightning check``: the first minute with a configuration, before it trains.

It takes what ``fit`` takes, looks at the data, the network and the optimizer that the configuration makes, on its
device and in its precision, and says what it found, a line each. It leaves nothing behind but a picture of the first
batch.
See :mod:`resnet18.commands.check_data` for where the looks come from.
"""

import itertools
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.text import Text
from torch.optim import Optimizer

from resnet18.cli.arguments import say
from resnet18.cli.program import Program
from resnet18.commands import on_one_device
from resnet18.commands.check_data import Finding, balance, contact_sheet, duplicates, pixels, save
from resnet18.commands.check_network import (
    AT_LEAST,
    Batch,
    Network,
    at_peak,
    by_heart,
    failure,
    gradients,
    independence,
    loss_at_start,
    one_batch,
    parameter_groups,
)
from resnet18.errors import RunError, UsageError, counted
from resnet18.storage.checkpoints import start_from

BATCHES = 4
"""Batches that the loss at the start is the mean of."""
IMAGES = 32
"""The most of each batch that is used, so that a CPU is done in seconds."""
STYLES = {"ok": "green", "warn": "bold yellow", "wrong": "bold red", "skip": "dim"}
INDENT = " " * 21  # of what stands below a finding's first line


class Check(Program):
    """The command, parsed and made; :meth:`start` looks and prints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=str, default="check.png", help="The picture of the first batch to write.")
        parser.add_argument("--steps", type=int, default=60, help="The most steps to overfit one batch.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # One process looks, whatever number is to train.
        return super().instantiate_trainer(**kwargs, **on_one_device(self.config_init["trainer"]["devices"]))

    def start(self) -> None:
        """Looks, prints, and writes the picture.

        Raises:
            UsageError: For a value that the data or the optimizer refuse.
            RunError: Where anything was found to be wrong, after all was printed.
        """
        began = time.monotonic()
        self.console = Console(highlight=False, markup=False, soft_wrap=True, force_jupyter=False)
        if self.config.steps < AT_LEAST:
            raise UsageError(f"steps must be at least {AT_LEAST}, not {self.config.steps}")
        self.picture = self._output()
        if self.config.init_from:
            say(start_from(self.model.backbone, self.config.init_from))
        network = Network(self.model, self.trainer)
        self.datamodule.prepare_data()
        try:
            self.datamodule.setup("fit")
            batches = [
                (images, labels) for images, labels in itertools.islice(self.datamodule.train_dataloader(), BATCHES)
            ]
        except (ValueError, TypeError) as error:
            raise self.usage_error(error, "data") from error
        self.check_recipe()
        optimizer = at_peak(network)
        self._title(network)
        found: list[Finding] = []
        for finding in self._findings(network, optimizer, batches):
            self._print(finding)
            found.append(finding)
        wrong = [finding.name for finding in found if finding.level == "wrong"]
        warned = sum(finding.level == "warn" for finding in found)
        warnings = f"{warned or 'no'} warning{'' if warned == 1 else 's'}"
        self.console.print(f"\n{warnings}, {len(wrong) or 'nothing'} wrong, in {time.monotonic() - began:.1f} s")
        if wrong:
            raise RunError(f"wrong: {', '.join(wrong)}")

    def _findings(self, network: Network, optimizer: Optimizer, batches: list[Batch]) -> Iterator[Finding]:
        data = self.datamodule
        yield balance(data)
        yield pixels(data)
        yield from duplicates(data)
        yield from self._trained(network, [network.to_device(batch, IMAGES) for batch in batches])
        yield parameter_groups(network, optimizer)
        yield self._picture(batches[0])

    def _trained(self, network: Network, batches: list[Batch]) -> Iterator[Finding]:
        images, _ = batches[0]
        value, algorithm = self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
        clip = (float(value), "value" if algorithm == "value" else "norm") if value else None
        try:
            start = loss_at_start(network, batches)
            apart = independence(network, images)
            done, again = by_heart(network, batches[0], self.config.steps, clip, self.datamodule.batch_size)
        except (RuntimeError, ValueError, TypeError) as error:
            yield failure(images, error)
        else:
            yield from (start, apart, one_batch(done, again, len(images)), gradients(done, network))

    def _picture(self, batch: Batch) -> Finding:
        images, labels = batch[0][:IMAGES], batch[1][:IMAGES]
        save(contact_sheet(images, labels, self.datamodule.class_names), self.picture)
        return Finding(
            "ok", "picture", f"{counted(len(images), 'training image')} as the network gets them: {self.picture}"
        )

    def _title(self, network: Network) -> None:
        count = sum(parameter.numel() for parameter in network.backbone.parameters())
        source = ", ".join(map(str, self.config_paths)) or type(self.datamodule).__name__
        self.console.print(
            f"{source}: {type(network.backbone).__name__}, {count:,} parameters, on {network.device}, "
            f"{self.trainer.precision}, seed {self.config.seed_everything}\n"
        )

    def _print(self, finding: Finding) -> None:
        style = STYLES[finding.level]
        advice = [line for sentence in finding.advice for line in self._wrapped(f"→ {sentence}", "  ")]
        rows = _aligned(finding.table)
        first, *rest = self._wrapped(finding.numbers)
        self.console.print(Text.assemble((f"{finding.level:<7}", style), (f"{finding.name:<14}", "bold"), first))
        for line in rest:
            self.console.print(INDENT + line)
        for line in advice:
            self.console.print(Text(INDENT + line, style))
        for line in rows:
            self.console.print(Text(INDENT + line, "dim"))

    def _wrapped(self, text: str, indent: str = "") -> list[str]:
        """On a terminal, lines that fit beside the names; elsewhere one line, for grep."""
        if not self.console.is_terminal:
            return [text]
        width = max(self.console.width - len(INDENT), 40)
        return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines: numbers to the right of their columns, the last column to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join([*(f"{word:>{width}}" for word, width in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in table
    ]


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning check ARGUMENTS`` does; raises what :mod:`resnet18.__main__` turns into an exit status."""
    program = Check(command, arguments)
    try:
        program.start()
    finally:
        program.datamodule.teardown("fit")
