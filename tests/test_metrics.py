import pytest
import torch

from resnet18.metrics import MeanLoss


def test_the_mean_loss_is_exact_where_the_module_is_held_in_16_bits() -> None:
    mean = MeanLoss().to(torch.bfloat16)  # as the Trainer does in bf16-true
    for _ in range(2):
        for count in [100] * 50 + [7]:
            mean.update(torch.tensor(1.1).mul(count), count)
        assert mean.compute().item() == pytest.approx(1.1, rel=1e-6)
        mean.reset()
