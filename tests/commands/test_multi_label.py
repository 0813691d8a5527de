"""Both commands work for a task where an image has several labels, or none."""

from pathlib import Path

from conftest import SMALL

TAGS = """
import torch
from resnet18 import Digits, ImageTensors

class Tags(Digits):
    split_hash = "none"

    def setup(self, stage):
        pixels = super().load("train")
        tags = torch.stack([pixels.labels % 2, pixels.labels // 5, pixels.labels % 3 == 0], 1).float()
        self.train = ImageTensors(pixels.images[:1000], tags[:1000])
        self.val = ImageTensors(pixels.images[1000:], tags[1000:])

    class_names = ("odd", "large", "threefold")
"""


def test_images_with_several_labels_are_checked_and_measured(lightning) -> None:
    Path("mydata.py").write_text(TAGS)
    recipe = ("--model.backbone", "resnet18.ResNet", "--model.backbone.in_channels", "1", *SMALL)
    recipe += ("--model.backbone.stem", "cifar", "--model.optimizer", "AdamW", "--model.optimizer.lr", "0.003")
    recipe += ("--model.loss", "binary_cross_entropy", "--data", "mydata.Tags")
    done = lightning("check", *recipe)
    assert done.status == 0, done.out + done.err
    for name, reason in (("classes", "not float32 of 1000×3"), ("first loss", "known for class numbers only")):
        assert any(line.startswith(f"skip   {name} ") and reason in line for line in done.out.splitlines()), done.out
    for name in ("leaks", "labels", "one batch", "gradients", "independence", "groups", "picture"):
        assert f"\nok     {name} " in done.out, done.out
    done = lightning("bench", *recipe, "--steps", "2")
    assert done.status == 0, done.err
    assert "Trainer.fit" in done.out
