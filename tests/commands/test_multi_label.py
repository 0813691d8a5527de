"""Both commands work for a model of your own, and for a task where an image has several labels, or none."""

from pathlib import Path

from conftest import SMALL
from run_makers import SEVERAL_LABELS


def test_images_with_several_labels_are_checked_and_measured(lightning) -> None:
    Path("mydata.py").write_text(SEVERAL_LABELS)
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
