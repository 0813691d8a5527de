"""The default precision is one that the machine computes fast; one that it emulates gives a warning."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN

from resnet18.engine.precision import choose_precision, emulation_warning

WIDTH = ("--model.backbone.width", "8", "--trainer.max_epochs", "1", "--trainer.logger", "false")


def machine(
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str | None = None,
    cuda_bf16: bool = False,
    architecture: str = "x86_64",
    onednn: bool | None = True,
    capability: str = "AVX512",
    instructions: bool = True,
) -> None:
    """Lets torch describe another machine."""
    found = torch.device(accelerator) if accelerator else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cuda_bf16)
    ops = SimpleNamespace() if onednn is None else SimpleNamespace(_is_mkldnn_bf16_supported=lambda: onednn)
    monkeypatch.setattr(torch.ops, "mkldnn", ops)
    monkeypatch.setattr("platform.machine", lambda: architecture)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "GPU with bf16": ({"accelerator": "cuda", "cuda_bf16": True}, "auto", "bf16-mixed"),
    "GPU without": ({"accelerator": "cuda"}, "gpu", "16-mixed"),
    "GPU, not used": ({"accelerator": "cuda", "cuda_bf16": True, "onednn": False}, "cpu", "32-true"),
    "MPS": ({"accelerator": "mps"}, "auto", "32-true"),
    "another accelerator": ({"accelerator": "xpu", "onednn": False}, "auto", "32-true"),
    "CPU with bf16": ({}, "auto", "bf16-mixed"),
    "CPU with AVX-512 alone": ({"instructions": False}, "auto", "32-true"),
    "CPU with AVX2": ({"onednn": False, "capability": "AVX2", "instructions": False}, "cpu", "32-true"),
    "CPU held to AVX2": ({"capability": "AVX2"}, "auto", "32-true"),
    "Arm with bf16": ({"architecture": "aarch64", "capability": "SVE256", "instructions": False}, "auto", "bf16-mixed"),
    "Arm without": ({"architecture": "arm64", "onednn": False, "capability": "DEFAULT"}, "auto", "32-true"),
    "no oneDNN": ({"onednn": None}, "auto", "32-true"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_precision_follows_the_machine(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    described, accelerator, expected = CASES[case]
    machine(monkeypatch, **described)
    chosen = choose_precision(accelerator)
    assert chosen.precision == expected
    assert chosen.reason
    emulated = emulation_warning("bf16-mixed", accelerator)
    assert (emulated is None) == (expected == "bf16-mixed" or case == "MPS")
    assert emulation_warning("32-true", accelerator) is None


def test_a_run_keeps_its_first_precision(lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, onednn=False)
    done = lightning("fit", "--config", CONFIG, *WIDTH, "--run_dir", "run")
    assert done.status == 0, done.err
    assert "precision 32-true: this CPU has no bf16 instructions" in done.out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == "32-true"

    machine(monkeypatch)  # moved to a better one
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2")
    assert done.status == 0, done.err
    assert "precision 32-true: the run's own" in done.out
    assert "precision" not in done.out.replace("precision 32-true: the run's own", "")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == "32-true"
    assert lightning("test", "--ckpt_path", "run").status == 0


def test_a_plugin_may_set_the_precision(lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    done = lightning(
        "fit", "--config", CONFIG, *WIDTH, "--trainer.plugins", "lightning.pytorch.plugins.DoublePrecision"
    )
    assert done.status == 0, done.err
    assert "64-true" in done.out


@pytest.mark.parametrize("command", ["fit", "check", "bench"])
def test_an_emulated_precision_is_used_with_a_warning(command: str, lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, onednn=False)
    Path("mynet.py").write_text(DROPOUT_NET)
    short = {
        "fit": ("--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"),
        "check": ("--steps", "20"),
        "bench": ("--steps", "3"),
    }[command]
    done = lightning(command, *DROPOUT_RUN[1:], "--trainer.precision", "bf16-mixed", *short)
    messages = [line for line in done.err.splitlines() if "this CPU has no bf16 instructions and emulates them" in line]
    assert len(messages) == 1, done
    assert "bf16-mixed" in done.out
