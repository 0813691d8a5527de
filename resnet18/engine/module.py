"""A base for LightningModules that resume exactly and load safely."""

from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningDataModule

from resnet18.engine.checkpointing import complete_weights
from resnet18.engine.inputs import DESCRIBED
from resnet18.engine.loops import callbacks_of, resume_between_epochs
from resnet18.engine.overhead import LeanModule
from resnet18.engine.stopping import notebook_stop
from resnet18.optimization import OptimizerCallable, drop_total_steps, refresh_lr
from resnet18.storage.checkpoints import CONFIG_KEY, model_from_checkpoint, primitives
from resnet18.storage.class_paths import import_object, parameter_names
from resnet18.storage.networks import make_network


class ResumableModule(LeanModule):
    """Subclasses that override one of its hooks call ``super()`` there."""

    run_config: dict[str, Any] | None = None  # the run's whole configuration, kept in every checkpoint
    in_trainer = False  # whether a Trainer is running it
    in_fit = False  # and whether in ``fit``, validations included

    @classmethod
    def for_data(cls, data: LightningDataModule, backbone: Any, optimizer: OptimizerCallable, **options: Any) -> Self:
        """A model for these data: classes, mean, std, input size and the cut from a photograph are taken from them.

            model = Classifier.for_data(data, partial(ResNet, width=16, in_channels=1), partial(AdamW, lr=0.002))
            lightning.Trainer(max_epochs=3).fit(model, datamodule=data)

        Args:
            data: A data source.
            backbone: The class, function or partial that makes the network from ``num_classes``: a checkpoint then
                describes it. Or the network itself, which ``load_run(…, backbone=…)`` has to be given again.
            optimizer: Takes parameters, gives the optimizer.
            options: Other arguments of the class.
        """
        names = parameter_names(cls)
        taken = {name: getattr(data, name) for name in DESCRIBED if name in names and hasattr(data, name)} | options
        network, described = make_network(backbone, taken.get("num_classes", 0))
        model = cls(backbone=network, optimizer=optimizer, **taken)
        path = f"{cls.__module__}.{cls.__qualname__}"
        noted = {"_class_path": path if import_object(path) is cls else None, "backbone": described}
        model.hparams.update({name: value for name, value in noted.items() if value})
        return model

    def configure_callbacks(self) -> list[Callback]:
        return notebook_stop(self.trainer)

    def setup(self, stage: str) -> None:
        self.in_trainer, self.in_fit = True, stage == "fit"

    def teardown(self, stage: str) -> None:
        self.in_trainer = False

    def on_train_start(self) -> None:
        resume_between_epochs(self.trainer)
        for config in self.trainer.lr_scheduler_configs:
            refresh_lr(config.scheduler)

    def on_validation_epoch_start(self) -> None:
        # Each rank has its own norm statistics after the last training step. A checkpoint holds rank 0's, so all ranks
        # score with those.
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        hyper_parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = primitives(hyper_parameters)
        if self.run_config is not None:
            checkpoint[CONFIG_KEY] = self.run_config
        # Not the callbacks' own hooks, which Lightning skips for a checkpoint of weights alone.
        for callback in callbacks_of(self.trainer):
            if write := getattr(callback, "write_weights", None):
                write(checkpoint)
        complete_weights(self.trainer, self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not self.in_fit:
            return
        for callback in callbacks_of(self.trainer):
            if read := getattr(callback, "read_weights", None):
                read(checkpoint)
        for state in checkpoint.get("lr_schedulers", ()):
            drop_total_steps(state)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", strict: bool | None = True, **kwargs: Any
    ) -> Self:
        """The model that a checkpoint describes, with its weights; no data are needed.

        Args:
            checkpoint_path: From a run, or from a Trainer used in Python.
            map_location: Where to, as ``torch.load`` takes it.
            strict: Whether weights that are missing or left over are an error.
            kwargs: Arguments that the checkpoint lacks (a backbone that was passed as an object) or should not decide.
                ``weights_only`` is accepted and always on: a pickle could run code.

        Raises:
            RunError: Where the file is broken or names foreign code, and where weights and description do not fit.
        """
        kwargs.pop("weights_only", None)
        return model_from_checkpoint(cls, Path(checkpoint_path), kwargs, map_location, strict is not False)
