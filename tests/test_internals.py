"""Names that Lightning, torch, W&B and jsonargparse don't promise to keep, and that this project uses nevertheless.

After an upgrade this is the first test to run: it fails by name for what is gone. Each line says which library, which
name, how it is reached here, and which file uses it.
"""

import ast
import importlib
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, cli
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import launchers
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset, dataloader
from wandb_workspaces import workspaces

from resnet18.engine.checkpointing import BestCheckpoint

PRIVATE = [
    ("Lightning", "trainer._accelerator_connector.cluster_environment", "engine/ranks.py"),
    ("Lightning", "trainer._checkpoint_connector._loaded_checkpoint", "engine/loops.py"),
    ("Lightning", "trainer.strategy._launcher", "engine/ranks.py"),
    ("Lightning", "trainer.fit_loop._can_stop_early", "engine/loops.py"),
    ("Lightning", "trainer.fit_loop._data_fetcher", "engine/loops.py"),
    ("Lightning", "trainer.fit_loop._restarting", "engine/loops.py"),
    ("Lightning", "trainer.fit_loop._should_accumulate", "engine/loops.py"),
    ("Lightning", "trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor", "engine/loops.py"),
    ("Lightning", "trainer.fit_loop.epoch_loop._num_ready_batches_reached", "engine/loops.py"),
    ("Lightning", "trainer.fit_loop.epoch_loop._should_check_val_fx", "engine/loops.py"),
    ("Lightning", "trainer.lightning_module._current_fx_name", "engine/overhead.py"),
    ("Lightning", "trainer.profiler._prepare_filename", "engine/overhead.py"),
    ("Lightning", "launchers._SubprocessScriptLauncher._call_children_scripts", "engine/ranks.py"),
    ("Lightning", "hyper_parameters._class_path", "engine/module.py", "storage/checkpoints.py"),
    ("Lightning", "hyper_parameters._instantiator", "storage/checkpoints.py"),
    ("W&B", "wandb_logger._experiment", "storage/wandb_start.py"),
    ("W&B", "wandb_logger._offline", "storage/wandb_start.py"),
    ("W&B", "wandb_logger._prefix", "storage/loggers.py"),
    ("W&B", "wandb_logger._wandb_init", "storage/wandb_start.py"),
    ("wandb-workspaces", "workspace._to_model", "commands/dashboard.py"),
    ("torch", "torch._dynamo.exc.TorchDynamoException", "engine/compilation.py"),
    ("torch", "torch._functorch.config.force_non_lazy_backward_lowering", "engine/compilation.py"),
    ("torch", "torch._foreach_copy_", "engine/divergence.py", "callbacks/ema.py"),
    ("torch", "torch.cpu._is_avx512_bf16_supported", "engine/precision.py"),
    ("torch", "torch.ops.mkldnn._is_mkldnn_bf16_supported", "engine/precision.py"),
    ("torch", "module._buffers", "engine/divergence.py"),
    ("torch", "module._call_impl", "engine/compilation.py"),
    ("torch", "module._compiled_call_impl", "engine/compilation.py"),
    ("torch", "state_dict._metadata", "storage/checkpoint_io.py"),
    ("torch", "nn.modules.batchnorm._NormBase", "optimization.py"),
    ("torch", "fused_optimizer._step_supports_amp_scaling", "engine/precision.py"),
    ("torch", "schedule._schedule_phases", "optimization.py"),
    ("torch", "schedule._step_count", "optimization.py"),
    ("torch", "loader._iterator", "engine/overhead.py"),
    ("torch", "dataloader._MultiProcessingDataLoaderIter._shutdown_workers", "engine/overhead.py"),
    ("jsonargparse", "parser._actions", "cli/parser.py", "cli/help.py", "cli/plain.py"),
    ("jsonargparse", "action._typehint", "cli/help.py"),
]
"""Library, name, and the files that use it. A file's every use of a private name has a line here."""

KEYS = [
    ("loops", "epoch_progress", "current"),
    ("loops", "epoch_loop.batch_progress", "is_last_batch"),
    *[("loops", f"epoch_loop.batch_progress {which}", "processed") for which in ("total", "current")],
    ("loops", "epoch_loop.val_loop.batch_progress current", "processed"),
    *[
        ("loops", f"epoch_loop.automatic_optimization.optim_progress optimizer {what} {which}", "completed")
        for what in ("step", "zero_grad")
        for which in ("total", "current")
    ],
    *[("best", "", key) for key in ("best_k_models", "best_model_path", "current_score", "dirpath")],
    ("best", "", "kth_best_model_path"),
]
"""Keys of state dicts of Lightning's: whose, where in it, and the key; loops.py and checkpointing.py change them."""


@cache
def objects() -> SimpleNamespace:
    """One of each kind of object that the names belong to."""
    module, parser = nn.BatchNorm2d(3), ArgumentParser()
    parser.add_argument("--number", type=int | None)
    weights = [nn.Parameter(torch.ones(1))]
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(BoringModel())
    importlib.import_module("torch._dynamo.exc")
    importlib.import_module("torch._functorch.config")
    return SimpleNamespace(
        action=parser._actions[-1],
        dataloader=dataloader,
        fused_optimizer=SGD(weights, fused=True),
        hyper_parameters=SimpleNamespace(**_hyper_parameters()),
        launchers=launchers,
        loader=DataLoader(TensorDataset(torch.zeros(1))),
        module=module,
        nn=nn,
        parser=parser,
        schedule=OneCycleLR(SGD(weights), max_lr=1, total_steps=9),
        state_dict=module.state_dict(),
        torch=torch,
        trainer=trainer,
        wandb_logger=WandbLogger(offline=True),
        workspace=workspaces.Workspace(entity="someone", project="something"),
    )


def _hyper_parameters() -> dict[str, Any]:
    """Those of a model that a LightningCLI has made."""

    class Model(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()

    dumped = {"model": {"class_path": "mymodel.Model", "init_args": {}}}
    program: Any = SimpleNamespace(config_dump=dumped, _dump_config=lambda: None)
    return dict(cli._InstantiatorFn(program, "model")(Model, applied_instantiation_links={}).hparams)


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"{library}: {name} ({', '.join(files)})") for library, name, *files in PRIVATE]
)
def test_a_private_name_is_there(name: str) -> None:
    found: Any = objects()
    for part in name.split("."):
        assert hasattr(found, part)
        found = getattr(found, part)


@pytest.mark.parametrize(("whose", "path", "key"), KEYS, ids=lambda part: part or "state")
def test_a_key_of_a_state_dict_is_there(whose: str, path: str, key: str) -> None:
    state = objects().trainer.fit_loop.state_dict() if whose == "loops" else BestCheckpoint().state_dict()
    for part in path.split():
        state = state[part]
    assert key in state


def test_a_weight_averages_keys_are_there() -> None:
    checkpoint = {"state_dict": {}}
    averaging, trainer = WeightAveraging(), objects().trainer
    averaging.setup(trainer, BoringModel(), "fit")
    averaging.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint)
    assert {"current_model_state", "averaging_state"} <= checkpoint.keys()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def is_own(node: ast.expr) -> bool:
    """Whether it is ``self``, ``cls`` or ``super()``."""
    return ast.unparse(node) in ("self", "cls", "super()")


def names_given(tree: ast.AST) -> set[str]:
    """What a file's classes call their own attributes and methods."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def private_names(tree: ast.AST, own: set[str]) -> set[str]:
    """The private names of others that a file reads, sets, imports, or has as text."""
    found: set[str] = set()
    texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (is_own(node.value) and node.attr in own):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("resnet18"):
            found |= {*(node.module or "").split("."), *(one.name for one in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for one in node.names for part in one.name.split(".")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            found |= {node.value} if node.value.isidentifier() else set()
    return {name for name in found if is_private(name)} - {"_exit"}  # os._exit is documented


def test_every_private_name_has_a_line() -> None:
    package = ROOT / "resnet18"
    trees = {path.relative_to(package): ast.parse(path.read_text()) for path in package.rglob("*.py")}
    own = set().union(*map(names_given, trees.values()))
    used = {(path.as_posix(), name) for path, tree in trees.items() for name in private_names(tree, own)}
    listed = {
        (file, part) for _, name, *files in PRIVATE for file in files for part in name.split(".") if is_private(part)
    }
    assert sorted(used - listed) == []  # use a public name, or add a line
    assert sorted(listed - used) == []  # used no more: take the line out
