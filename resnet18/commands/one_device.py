"""What `check` and `bench` share: one process, one device, no run."""

from typing import Any

from lightning.pytorch import Trainer

from resnet18.cli.program import Program


class OneDevice(Program):
    """A command that tries a configuration in one process, on the first of its devices, and leaves no run."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        devices = self.config_init["trainer"]["devices"]  # a number, a list, or either as text
        if isinstance(devices, str) and "," in devices:
            devices = [int(number) for number in devices.split(",") if number.strip()]
        one = {"devices": devices[:1] if isinstance(devices, list) else 1, "num_nodes": 1, "strategy": "auto"}
        return super().instantiate_trainer(**kwargs, **one, enable_progress_bar=False)

    def load_data(self) -> None:
        """Loads the training images and tries the optimizer and the schedule; UsageError for a value they refuse."""
        try:
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
        except (ValueError, TypeError) as error:
            raise self.usage_error(error, "data") from error
        self.check_recipe()

    def title(self) -> str:
        count = sum(parameter.numel() for parameter in self.model.backbone.parameters())
        device, precision = self.trainer.strategy.root_device, self.trainer.precision
        return f"{type(self.model.backbone).__name__}, {count:,} parameters, on {device}, {precision}"

    def run(self) -> None:
        try:
            self.start()
        finally:
            self.datamodule.teardown("fit")
