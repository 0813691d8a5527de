"""Both commands work for a model of your own, and for a task where an image has several labels, or none."""

from pathlib import Path

from conftest import SMALL

OWN = """
import torch
from torchmetrics.classification import MultilabelAccuracy
from resnet18 import Classifier, Digits, ImageTensors

class Tags(Digits):
    class_names = ("odd", "large", "threefold")

    def load(self, part):
        whole = super().load(part)
        tags = torch.stack([whole.labels % 2, whole.labels // 5, whole.labels % 3 == 0], 1).float()
        return ImageTensors(whole.images, tags)

    def check_targets(self, targets, name):
        assert targets.shape[1:] == (3,)

    def strata(self, targets):
        return targets[:, 0].long()

class Tagger(Classifier):
    def make_metrics(self):
        return {"accuracy": MultilabelAccuracy(num_labels=3)}
"""


def test_images_with_several_labels_are_checked_and_measured(lightning) -> None:
    Path("mydata.py").write_text(OWN)
    recipe = ("--model", "mydata.Tagger", "--model.loss", "binary_cross_entropy", "--data", "mydata.Tags")
    recipe += ("--model.backbone", "resnet18.ResNet", "--model.backbone.in_channels", "1", *SMALL)
    recipe += ("--model.backbone.stem", "cifar", "--model.optimizer", "AdamW", "--model.optimizer.lr", "0.003")
    done = lightning("check", *recipe)
    assert done.status == 0, done.out + done.err
    for name, reason in (("classes", "×3"), ("first loss", "known for class numbers only")):
        assert any(line.startswith(f"skip   {name} ") and reason in line for line in done.out.splitlines()), done.out
    for name in ("leaks", "labels", "one batch", "gradients", "independence", "groups", "picture"):
        assert f"\nok     {name} " in done.out, done.out
    done = lightning("bench", *recipe, "--steps", "2")
    assert done.status == 0, done.err
    assert "Trainer.fit" in done.out
