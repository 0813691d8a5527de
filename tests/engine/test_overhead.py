"""The cheaper versions work as Lightning's; profiles are tested with the Trainer's other options."""

import os

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resnet18.engine.overhead import LeanModule, NoProfiler, end_workers


def test_a_lean_module_registers_parameters_like_any_module() -> None:
    module = LeanModule()
    module.layer, module._current_fx_name = nn.Linear(1, 1), "training_step"
    assert module._current_fx_name == "training_step"
    assert list(module.state_dict()) == ["layer.weight", "layer.bias"]


def test_no_profiler_shares_one_context() -> None:
    profiler = NoProfiler()
    with profiler.profile("one") as one, profiler.profile("other") as other:
        assert one is other is None


def test_ended_workers_are_gone() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(4)), num_workers=1, persistent_workers=True)
    assert len(list(loader)) == 4
    (worker,) = loader._iterator._workers  # type: ignore[union-attr]
    os.kill(worker.pid, 0)
    end_workers(loader)
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
    end_workers(loader)  # there are none: nothing to do
    assert len(list(loader)) == 4  # and it can be used again
    end_workers(loader)
