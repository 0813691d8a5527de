"""``lightning predict``: the network's classes of images, as a table."""

import sys
from contextlib import redirect_stdout
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from resnet18.callbacks.predictions import PredictionTable
from resnet18.cli.arguments import say
from resnet18.cli.program import Program
from resnet18.cli.trainer_parts import as_list
from resnet18.data.unlabelled import Unlabelled
from resnet18.errors import RunError, UsageError, counted
from resnet18.storage.tables import STDOUT


class Predict(Program):
    """The command that predicts the run's test images, or a user's."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if self.inputs.output == STDOUT and not self.inputs.only_shows:
            sys.stdout = sys.stderr  # for all but the table; `run` sets it back
        super().parse_arguments(parser, args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        classes, topk = self.datamodule.num_classes, self.config.topk
        if topk > classes:
            raise UsageError(f"topk: expected a whole number from 1 to {classes}, the number of classes, not {topk}")
        if self.inputs.images:
            if not isinstance(self.datamodule, Unlabelled):
                raise UsageError(
                    f"images: data is given too, as {type(self.datamodule).__name__}; leave one of them out"
                )
            self.datamodule.images = self.inputs.images
        names, embeddings = self.datamodule.class_names, self.config.embeddings
        self.predictions = PredictionTable(self.config.output, names, topk, embeddings)
        callbacks = [*as_list(self.config_init["trainer"]["callbacks"]), self.predictions]
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def compare_data(self) -> None:
        if not self.inputs.images:
            super().compare_data()

    def start(self) -> None:
        """Runs the command to its end; RunError, once the table is written, if an image could not be read."""
        super().start()
        table = self.predictions.table
        if table is not None and table.unreadable and self.trainer.is_global_zero:
            more = table.unreadable - len(table.reasons)
            named = ", ".join(table.reasons) + (f" and {more:,} more" if more else "")
            raise RunError(f"{table.unreadable:,} of {counted(table.rows, 'image')} can't be read: {named}")

    def _predict(self) -> None:
        given = self._evaluated()
        if self.inputs.images and self.datamodule.input_size[0] == 1:
            say("images in colour are converted to grey: the network has one channel")
        self.trainer.predict(self.model, return_predictions=False, **given)
        if (table := self.predictions.table) is None:
            raise RunError("nothing was predicted: trainer.limit_predict_batches leaves no batch")
        place = "" if self.inputs.output == STDOUT else f" in {self.inputs.output}"
        say(f"{counted(table.rows - table.unreadable, 'prediction')}{place}")


def run(command: str, arguments: list[str]) -> None:
    """Runs ``lightning predict ARGUMENTS``."""
    with redirect_stdout(sys.stdout):
        Predict(command, arguments).start()
