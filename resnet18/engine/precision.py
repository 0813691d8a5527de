"""The precision that a run trains in by default, and whether the machine has the one that was chosen."""

import platform
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from resnet18.storage.class_paths import import_object


class Choice(NamedTuple):
    """A value of ``trainer.precision``, and why it was chosen."""

    precision: str
    reason: str


def choose_precision(accelerator: Any) -> Choice:
    """The fastest precision that trains as well as float32 on this machine, with ``trainer.accelerator``."""
    device = _device_type(accelerator)
    if device == "mps":
        return Choice("32-true", "the precision that MPS is sure of")
    if has_bf16(device):
        return Choice("bf16-mixed", f"this {_name(device)} has bf16 instructions")
    return Choice("16-mixed" if device == "cuda" else "32-true", f"this {_name(device)} has no bf16 instructions")


def emulation_warning(precision: Any, accelerator: Any) -> str | None:
    """A warning if this machine emulates the precision that was chosen."""
    device = _device_type(accelerator)
    if not str(precision).startswith("bf16") or device == "mps" or has_bf16(device):
        return None
    slow = "" if device == "cuda" else ", far slower than float32"
    return (
        f"precision {precision}: this {_name(device)} has no bf16 instructions and emulates them{slow}; "
        f"--trainer.precision {choose_precision(accelerator).precision} would be faster"
    )


def has_bf16(device: str) -> bool:
    """Whether a device of this kind, ``cuda`` or ``cpu``, computes in bf16 rather than emulating it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except AttributeError:  # torch built without oneDNN
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN also says yes to AVX-512 alone, on which it emulates; and ATEN_CPU_CAPABILITY=avx2 counts.
        avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        return supported and avx512 and torch.cpu._is_avx512_bf16_supported()
    return supported


def plugin_decides(plugins: Any) -> bool:
    """Whether one of ``trainer.plugins`` sets the precision; Lightning then refuses a second one."""
    from lightning.pytorch.plugins import Precision

    plugins = plugins if isinstance(plugins, list) else [plugins]
    classes = [import_object(plugin.class_path) for plugin in plugins if hasattr(plugin, "class_path")]
    return any(isinstance(one, type) and issubclass(one, Precision) for one in classes)


def unscales_itself(optimizer: Optimizer) -> bool:
    """Whether an optimizer unscales float16 gradients itself, as fused ones do: they can't be clipped."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def gradient_scale(trainer: Any, optimizer: Optimizer) -> float:
    """What gradients are multiplied by when the optimizer gets them: 1, except for fused optimizers in float16."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler.get_scale() if scaler is not None and unscales_itself(optimizer) else 1.0


def _device_type(accelerator: Any) -> str:
    if accelerator in ("cuda", "mps", "cpu"):
        return accelerator
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found is not None and found.type in ("cuda", "mps") else "cpu"


def _name(device: str) -> str:
    return "GPU" if device == "cuda" else "CPU"
