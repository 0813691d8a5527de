"""What is put into a configuration to make it a wrong one; :mod:`mutations` puts it there.

Each value means nothing where it is put: a name that no class takes, a number out of its range, a class of another
kind, a text that is no YAML or that YAML's readers take and nobody means.
"""

from collections.abc import Callable
from typing import Any

NAN, INF = float("nan"), float("inf")

NEVER_NULL = {
    *("backbone", "optimizer", "data", "class_path", "stem", "zero_init_residual", "in_channels", "lr", "momentum"),
    *("nesterov", "weight_decay", "warmup", "peak", "initial", "step_size", "gamma", "label_smoothing", "mixup"),
    *("cutmix", "loss", "backbone_lr_scale", "root", "batch_size", "eval_batch_size", "translate", "flip", "cutout"),
    *("image_size", "eval_share", "growth", "policy", "magnitude", "epochs"),
}
EXTRA: dict[str, dict[str, Any]] = {
    "": {"epochs": 3, "dataset": "digits", "lr": 0.1, "callbacks": [], "wandb": True},
    "model": {"dropout": 0.1, "num_layers": 18, "pretrained": True, "lr": 0.1, "net": "resnet18"},
    "backbone": {"depth": 18, "pretrained": False, "dropout": 0.1, "groups": 2},
    "optimizer": {"learning_rate": 0.1, "clip": 1.0, "warmup": 0.1, "scheduler": "cosine"},
    "schedule": {"decay_every": 2, "min_lr": 0.0, "cycles": 3, "max_epochs": 10},
    "data": {"shuffle": True, "train_batch_size": 8, "transforms": [], "normalize": True},
    "trainer": {"epochs": 3, "gpus": 1, "optimizer": "SGD", "max_step": 10, "early_stopping": True},
    "callbacks": {"until": 3, "layers": ["fc"], "unfreeze_at": 2},
    "best": {"dirpath": "elsewhere", "save_top_k": 3, "patience": 2},
    "last": {"filename": "mine", "every_n_hours": 1, "metric": "val/top1"},
}
"""Keys that do not exist, by the last name of what they are added to."""

NONSENSE: dict[str, list[Any]] = {
    "seed_everything": [-1, 1.5, 2**70],
    "model.backbone.class_path": [
        "torch.optim.SGD",
        "resnet18.backbone.ResNett",
        "resnet18.nowhere.ResNet",
        "os.getcwd",
    ],
    "model.backbone.init_args.stem": ["cifar100", ""],
    "model.backbone.init_args.width": [0, -64],
    "model.backbone.init_args.in_channels": [0, -3],
    "model.optimizer.class_path": ["torch.nn.Linear", "torch.optim.AdmaW", "resnet18.backbone.ResNet", "torch.optim"],
    "model.optimizer.init_args.lr": [-1, NAN, INF],
    "model.optimizer.init_args.weight_decay": [-0.1, NAN, INF],
    "model.schedule.class_path": ["torch.optim.SGD", "resnet18.schedules.WarmupCosin", "torch.optim.lr_scheduler"],
    "model.schedule.init_args.warmup": [1.5, -0.1, NAN],
    "model.schedule.init_args.peak": [2, -0.5],
    "model.schedule.init_args.step_size": [0],
    "model.schedule_interval": ["batch", "epochs"],
    "model.label_smoothing": [3, -0.1, NAN, 1],
    "model.mixup": [-0.2, INF],
    "model.cutmix": [-1, NAN],
    "model.loss": ["crossentropy", "mse"],
    "model.backbone_lr_scale": [0, -0.1, NAN],
    "data.class_path": [
        "torch.nn.Linear",
        "resnet18.data.cifar10.CIFAR",
        "resnet18.data",
        "torch.utils.data.DataLoader",
    ],
    "data.init_args.batch_size": [0, -64],
    "data.init_args.eval_batch_size": [0, -1],
    "data.init_args.val_share": [2, 0, 1, -0.1, NAN],
    "data.init_args.translate": [-1, 10**6],
    "data.init_args.cutout": [-3],
    "data.init_args.image_size": [0, -128],
    "data.init_args.eval_share": [0, 87.5, NAN],
    "data.init_args.growth": [[0.9, 0.1], [-1, 2]],
    "data.init_args.crop": [[0, 1], [1, 0.5], [0.5, 3]],
    "data.init_args.policy": ["autoaugment"],
    "data.init_args.magnitude": [-1, 99],
    "data.init_args.erasing": [-0.5, 25],
    "data.init_args.num_workers": [-4],
    "data.init_args.resident_limit_gb": [-1, NAN],
    "data.init_args.feed": ["disk"],
    "data.init_args.channels": [4],
    "trainer.max_epochs": [-5],
    "trainer.max_steps": [-2],
    "trainer.precision": ["bf17-mixed", 17],
    "trainer.log_every_n_steps": [-10],
    "trainer.devices": [0, -2, "two"],
    "trainer.accelerator": ["cpuu", "quantum"],
    "trainer.strategy": ["ddpp"],
    "trainer.check_val_every_n_epoch": [0, -1],
    "trainer.val_check_interval": [-1, 1.5],
    "trainer.limit_train_batches": [-1, 1.5],
    "trainer.accumulate_grad_batches": [0, -4],
    "trainer.gradient_clip_val": [-1, NAN],
    "trainer.gradient_clip_algorithm": ["median"],
    "trainer.callbacks.0.class_path": [
        "torch.nn.ReLU",
        "resnet18.callbacks.freezing.Freez",
        "resnet18.callbacks.frost.Freeze",
    ],
    "trainer.callbacks.0.init_args.epochs": [-2],
    "trainer.logger": ["TensorBord"],
    "best.monitor": ["test/top1", "val/top2", "top1"],
    "best.mode": ["maximum", "up"],
    "last.every_n_steps": [0, -7],
    "last.every_n_minutes": [-1, 0, NAN],
}
"""Values, by the dotted key; a number is a place in a list."""


def _in_trainer(text: str, line: str) -> str:
    return text.replace("trainer:\n", f"trainer:\n  {line}\n")


BROKEN: dict[str, tuple[str, Callable[[str], str | bytes]]] = {
    "a tab in front": ("line ", lambda text: text.replace("\n  ", "\n\t", 1)),
    "an unclosed bracket": ("line ", lambda text: _in_trainer(text, "callbacks: [1, 2")),
    "an unclosed quote": ("line ", lambda text: text.replace("precision: ", 'precision: "')),
    "a colon forgotten": ("line ", lambda text: text.replace("max_epochs: ", "max_epochs ")),
    "one space too many": ("line ", lambda text: text.replace("  max_epochs", "   max_epochs")),
    "a group given twice": ("trainer", lambda text: f"{text}trainer:\n  max_epochs: 1\n"),
    "a key given twice": ("trainer.max_epochs", lambda text: _in_trainer(text, "max_epochs: 1")),
    "an inner key given twice": (
        "model.optimizer.lr",
        lambda text: text.replace("      lr: ", "      lr: 0.3\n      lr: "),
    ),
    "an alias of nothing": ("line ", lambda text: text.replace("seed_everything: 1", "seed_everything: *seed")),
    "a tag of Python": ("line ", lambda text: _in_trainer(text, "callbacks: !!python/object/apply:os.getcwd []")),
    "an alias of itself": ("line ", lambda text: _in_trainer(text, "callbacks: &itself [*itself]")),
    "a list as a key": ("line ", lambda text: _in_trainer(text, "? [1, 2]\n  : 3")),
    "a number as a key": ("trainer.3", lambda text: _in_trainer(text, "3: 4")),
    "two documents": ("line ", lambda text: f"{text}---\n{text}"),
    "a list at the top": ("", lambda text: "".join(f"- {line}\n" for line in text.splitlines() if line[0] != " ")),
    "a word at the top": ("", lambda text: "digits\n"),
    "nothing in it": ("", lambda text: ""),
    "only a comment": ("", lambda text: "# to be written\n"),
    "a picture's bytes": ("", lambda text: b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe"),
    "a byte of zero": ("", lambda text: text.encode() + b"\x00"),
    "brackets in brackets": ("", lambda text: _in_trainer(text, f"callbacks: {'[' * 5000}")),
}
"""Whole files: what the message has to name, and what makes them of a good one."""
