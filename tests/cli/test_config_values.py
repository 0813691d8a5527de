"""Which arguments may be null, and which values are refused though the parser takes them."""

from typing import Any

import pytest
import torch
import torchvision
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from resnet18 import Classifier, Digits, ImageFolder
from resnet18.cli.dry_run import refused_values, takes_none


class Odd:
    def __init__(self, untyped=1, anything: Any = 1, nullable: int | None = 1, strict: int = 1) -> None:
        pass


def strict(width: int = 3, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("made", "takes", "refuses"),
    [
        (Odd, ("untyped", "anything", "nullable", "unknown"), ("strict",)),
        (strict, ("kwargs", "others"), ("width",)),
        (Classifier, ("schedule", "schedule_interval", "num_classes"), ("label_smoothing", "loss", "compile")),
        (Digits, ("root",), ("batch_size", "val_share", "cutout")),
        (ImageFolder, ("crop", "eval_size", "num_workers"), ("image_size", "eval_batch_size", "growth")),
        (torch.optim.AdamW, ("foreach", "fused"), ("weight_decay", "amsgrad")),
        (torchvision.models.resnet18, ("weights", "num_classes"), ("progress",)),
        (Trainer, ("max_epochs", "precision", "logger"), ("max_steps", "num_nodes")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_null_is_for_what_takes_none(made: Any, takes: tuple[str, ...], refuses: tuple[str, ...]) -> None:
    assert [name for name in takes if not takes_none(made, name)] == []
    assert [name for name in refuses if takes_none(made, name)] == []


def test_values_that_mean_nothing_are_refused_by_key() -> None:
    nan, inf = float("nan"), float("inf")
    sgd = Namespace(class_path="torch.optim.SGD", init_args=Namespace(lr=inf, momentum=None, foreach=None))
    stop = Namespace(class_path="lightning.pytorch.callbacks.EarlyStopping", init_args=Namespace(monitor="test/loss"))
    config = Namespace(
        model=Namespace(optimizer=sgd, mixup=nan, loss=None, schedule=None),
        trainer=Namespace(callbacks=[stop], max_epochs=None, gradient_clip_val=inf),
        run_dir=None,
    )
    assert {key for key, _ in refused_values(config)} == {
        "model.optimizer.init_args.lr",
        "model.optimizer.init_args.momentum",
        "model.mixup",
        "model.loss",
        "trainer.callbacks[0].init_args.monitor",
    }
