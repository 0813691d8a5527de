"""A CUDA device that is not there: runs "on" it, on a machine without one, find what would make the host wait.

Tensors on ``cuda`` are torch's own FakeTensors, which have a shape, a type and a device but no values; an operation
that mixes devices fails on them as on a real device. Tensors on the CPU are real. Whatever would make the host wait, a
value that is read or a copy without ``non_blocking``, is noted with the place that asked for it, and answered with
ones. Streams and events do nothing, and gradients are zero: torch's autograd engine wants a real device.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

import resnet18

DEVICE = torch.device("cuda", 0)
PLACES = [Path(__file__).parent, *(Path(module.__path__[0]) for module in (resnet18, lightning, torch.amp))]
aten = torch.ops.aten


class Device(FakeTensorMode):
    """While this mode is on, the device is there."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits: list[str] = []
        """What waited for the device: the innermost function of this project's, Lightning's or torch.amp's."""
        self._pinned: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten._pin_memory.default or kwargs.pop("pin_memory", False):
            made = args[0].clone() if func is aten._pin_memory.default else func(*args, **kwargs)
            self._pinned.add(made.untyped_storage()._cdata)
            return made
        leaves = tree_leaves((args, kwargs))
        to = next((leaf.type for leaf in leaves if isinstance(leaf, torch.device)), None)
        if to != "cuda" and not any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and generator.initial_seed() not in _Generator.device_seeds:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")  # as torch says it
        asynchronous = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
        if func is aten._local_scalar_dense.default:
            self._waits()
            return torch.ones((), dtype=args[0].dtype).item()
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            if not (asynchronous and args[0].untyped_storage()._cdata in self._pinned):
                self._waits()
            return args[0].zero_()  # to those of the asynchronous questions that are asked here, "no"
        if func is aten._to_copy.default and to == "cpu":
            self._waits()
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        sent = {aten._to_copy.default: args[:1], aten.copy_.default: args[1:2]}.get(func, ())
        if func in (aten.index.Tensor, aten.index_put_.default):
            sent = [index for index in args[1] if index is not None]
        if not asynchronous and any(isinstance(one, Tensor) and not isinstance(one, FakeTensor) for one in sent):
            self._waits()
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _waits(self) -> None:
        frame: Any = sys._getframe(2)  # the caller of the operation
        while not any(Path(frame.f_code.co_filename).is_relative_to(place) for place in PLACES):
            frame = frame.f_back
        self.waits.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")


class _Generator(torch.Generator):
    """Draws on the CPU; what it was made for is remembered by its seed, for torch hands the object on in a new one."""

    device_seeds: ClassVar[set[int]] = set()

    wanted: str

    def __new__(cls, device: Any = "cpu") -> Any:
        made: Any = super().__new__(cls, "cpu")  # pyrefly: ignore[bad-argument-count]
        made.wanted = torch.device(device).type
        return made

    def manual_seed(self, seed: int) -> torch.Generator:
        if self.wanted == "cuda":
            self.device_seeds.add(seed)
        return super().manual_seed(seed)


class _Stream:
    def __init__(self, *_: Any) -> None: ...
    def wait_stream(self, other: Any) -> None: ...


class _Event:
    def __init__(self, *_: Any) -> None: ...
    def record(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...  # nor does torch's own debug mode count this: it waits for a part of the work


@contextlib.contextmanager
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The device, and what torch has of it beside tensors."""
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)  # nor autocast
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: DEVICE)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    with Device() as mode:
        monkeypatch.setattr(_Stream, "synchronize", lambda stream: mode._waits(), raising=False)
        yield mode


class Accelerator(CPUAccelerator):
    """What the Trainer takes the device for."""

    def setup_device(self, device: torch.device) -> None: ...

    def setup(self, trainer: Trainer) -> None:
        CUDAAccelerator.set_nvidia_flags(trainer.local_rank)


class Strategy(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__(DEVICE)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        module = self.lightning_module
        assert module is not None
        self.precision_plugin.pre_backward(closure_loss, module)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return self.precision_plugin.post_backward(closure_loss, module)

    def teardown(self) -> None: ...  # which takes the weights back to the CPU
