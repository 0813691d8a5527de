"""On which device a test runs.

``pytest`` runs what is cheap on the CPU; ``pytest -m gpu`` runs everything here on CUDA, and is what ``make gpu`` does.
Where there is no GPU, ``GPU_TESTS_ON=cpu pytest -m gpu`` tries the same tests on the CPU.
"""

import os

import pytest

GPU = os.environ.get("GPU_TESTS_ON", "cuda")
ON_GPU = pytest.param(GPU, marks=pytest.mark.gpu, id="cuda")

everywhere = pytest.mark.parametrize("device", ["cpu", ON_GPU])
on_gpu = pytest.mark.parametrize("device", [ON_GPU])


def trainer_on(device: str) -> tuple[str, ...]:
    """The Trainer's options for one device, and for a run that can be repeated there bit for bit."""
    accelerator = {"cpu": "cpu", "cuda": "gpu"}[device]
    return ("--trainer.accelerator", accelerator, "--trainer.devices", "1", "--trainer.deterministic", "true")
