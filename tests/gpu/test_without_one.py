"""What can be known of a GPU without one: where the host would wait for it, and that nothing mixes devices."""

from collections import Counter
from pathlib import Path

import imaginary
import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN, picture_folder

CARD = """
trainer:
  accelerator: {class_path: imaginary.Accelerator}
  strategy: {class_path: imaginary.Strategy}
"""
FIT = """
  enable_checkpointing: false
  max_epochs: 1
  limit_train_batches: 10
"""
DRAWN = "evaluation.EvaluationRecord.on_train_batch_start"
LOGGED, SCORED = "training_log.TrainingLog.on_train_batch_end", "classifier.Classifier._log_scores"
SCALER = "grad_scaler.GradScaler._maybe_opt_step.<locals>.<genexpr>"  # whether a gradient was infinite
IMAGES = ("--data", "ImageFolder", "--data.root", "photos", "--data.image_size", "16", "--data.batch_size", "4")
CASES = {
    "shift, flip and cutout": ("--data.translate", "1", "--data.flip", "true", "--data.cutout", "3"),
    "crop": (*IMAGES, "--data.crop", "[0.5, 1]", "--data.flip", "true", "--data.feed", "resident"),
    "streamed": (*IMAGES, "--data.feed", "streamed", "--data.num_workers", "0"),
    "mixed images, in sums of gradients": (
        *("--model.mixup", "0.2", "--model.cutmix", "1", "--model.loss", "binary_cross_entropy"),
        *("--trainer.accumulate_grad_batches", "2", "--trainer.log_every_n_steps", "2"),
    ),
    "average": ("--model.ema", "0.9", "--model.label_smoothing", "0.1", "--trainer.gradient_clip_val", "1"),
    "bf16-mixed": (
        "--trainer.precision",
        "bf16-mixed",
        "--model.optimizer",
        "AdamW",
        "--model.optimizer.fused",
        "true",
    ),
    "bf16-true": ("--trainer.precision", "bf16-true", "--model.ema", "0.9"),
    "16-mixed": ("--trainer.precision", "16-mixed", "--model.ema", "0.9"),
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "card.yaml").write_text(CARD)
    (tmp_path / "fit.yaml").write_text(CARD + FIT)


@pytest.mark.filterwarnings("ignore:Total length of")  # it is 1 here, like everything
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.filterwarnings("error:Detected call of")  # where a scaler leaves out the first step
@pytest.mark.parametrize("case", CASES)
def test_between_log_points_and_in_a_validation_nothing_waits_for_the_device(
    case: str, lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "ImageFolder" in CASES[case]:
        (tmp_path / "mynet.py").write_text(DROPOUT_NET.replace("Conv2d(1,", "Conv2d(3,"))
        picture_folder(tmp_path / "photos" / "train", "abcde", each=10)
    with imaginary.device(monkeypatch) as device:
        done = lightning(*DROPOUT_RUN, "--config", "fit.yaml", "--run_dir", "run", *CASES[case])
    assert (done.status, done.err) == (0, "")
    first = next((place for place, name in enumerate(device.waits) if name == "resident.TrainLoader.__iter__"), None)
    begin = device.waits.index(LOGGED) if first is None else first + 1
    steps = device.waits[begin : device.waits.index(SCORED)]
    # Ten batches, logged every five: three numbers in one copy, of which this device counts each. The scaler of float16
    # asks in every step, which is torch's own doing.
    assert device.waits.count(DRAWN) == 2  # images and targets of the first batch
    assert Counter(one for one in steps if one != DRAWN) == {LOGGED: 2 * 3} | (
        {SCALER: 10} if case == "16-mixed" else {}
    )
    # The images cross once, those that train and those that validate together.
    assert device.waits.count("feed_module.FeedModule._resident") == (case != "streamed")


def test_the_device_notices_what_a_real_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    with imaginary.device(monkeypatch) as device:
        here = torch.ones(4, device="cuda")
        assert device.waits == []
        assert here.sum().item() == 1
        assert bool(here[0] > 0)
        _ = here.cpu(), torch.ones(4).to("cuda"), here[torch.tensor([0, 1])], torch.tensor([1.0], device="cuda")
        assert len(device.waits) == 6
        _ = torch.ones(4).pin_memory().to("cuda", non_blocking=True), here[here.long()], torch.ones_like(here)
        torch.rand(4, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
        assert len(device.waits) == 6
        torch.cuda.Stream().synchronize()
        assert len(device.waits) == 7
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(4, device="cuda", generator=torch.Generator().manual_seed(2))
        with pytest.raises(RuntimeError, match="same device"):
            here + torch.ones(4)
