"""Scores, predictions and models from a run's checkpoint, and warm starts."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import CONFIG, SMALL, copied

import resnet18
from resnet18 import ImageTensors

SHORT = (*SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.limit_train_batches", "2")


@pytest.fixture(scope="module")
def trained(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, to be scored."""
    return copied(trained, tmp_path_factory.mktemp("scored"))


@pytest.mark.parametrize("place", ["run", "latest", "best", "elsewhere"])
def test_a_run_a_link_or_a_file_is_tested(place: str, lightning, tmp_path: Path, trained: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    shutil.copy(best, tmp_path / "copy.ckpt")
    paths = {"run": trained, "latest": trained.parent / "latest", "best": best, "elsewhere": tmp_path / "copy.ckpt"}
    done = lightning("test", "--ckpt_path", paths[place])
    assert done.status == 0, done.err
    assert done.err == ""
    name, loss, *scores = done.out.split()
    assert name == "test/loss"
    model = resnet18.load_run(paths[place]).model
    data = resnet18.Digits()
    data.setup("test")
    assert isinstance(data.test, ImageTensors)
    images, labels = data.test.images, data.test.labels
    with torch.no_grad():
        logits = model(images.permute(0, 3, 1, 2))
    top1 = 100 * (logits.argmax(1) == labels).double().mean().item()
    top5 = 100 * (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert scores[:6] == ["test/top1", f"{top1:.2f}", "%", "test/top5", f"{top5:.2f}", "%"]
    assert float(loss) == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-4)


def test_validate_repeats_the_best_epochs_score(lightning, trained: Path) -> None:
    done = lightning("validate", "--ckpt_path", trained)
    assert done.status == 0, done.err
    best = max(float(row["val/top1"]) for row in csv.DictReader((trained / "metrics.csv").open()) if row["val/top1"])
    assert f"val/top1 {100 * best:.2f} %" in done.out


def test_every_command_reads_a_runs_config(lightning, trained: Path) -> None:
    for command in ("validate", "test", "predict"):
        done = lightning(command, "--config", trained / "config.yaml", "--ckpt_path", trained)
        assert done.status == 0, done.err
        assert "given here" not in done.out


def test_a_given_value_beats_the_stored_one_with_a_message(lightning, trained: Path) -> None:
    done = lightning(
        "validate", "--ckpt_path", trained, "--data.eval_batch_size", "7", "--trainer.precision", "bf16-mixed"
    )
    assert done.status == 0, done.err
    assert "changed from the stored run: data.eval_batch_size: 512 → 7" in done.out
    assert "changed from the stored run: trainer.precision: 32-true → bf16-mixed" in done.out


def test_the_model_of_a_checkpoint_cannot_be_changed(lightning, trained: Path) -> None:
    done = lightning("test", "--ckpt_path", trained, "--model.backbone.stem", "imagenet")
    assert done.status == 2
    assert "the model comes from the checkpoint; changed: model.backbone.stem: cifar → imagenet" in done.err


def test_other_data_is_refused_with_both_hashes(lightning, trained: Path) -> None:
    done = lightning("validate", "--ckpt_path", trained, "--data.split_seed", "5")
    assert done.status == 1
    for seed in (0, 5):
        assert resnet18.Digits(split_seed=seed).split_hash in done.err


def test_predictions_are_the_models(lightning, tmp_path: Path, trained: Path) -> None:
    done = lightning("predict", "--ckpt_path", trained, "--output", "out.csv", "--data.eval_batch_size", "50")
    assert done.status == 0, done.err
    assert "359 predictions in out.csv" in done.out
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    data = resnet18.Digits()
    data.setup("predict")
    assert isinstance(data.test, ImageTensors)
    with torch.no_grad():
        probability, label = resnet18.load_run(trained).model(data.test.images.permute(0, 3, 1, 2)).softmax(1).max(1)
    assert [row["image"] for row in rows] == data.image_ids()
    assert [int(row["class"]) for row in rows] == label.tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(probability.tolist(), abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    done = lightning("predict", "--ckpt_path", trained, "--output", "nowhere/out.csv")
    assert (done.status, "output: there is no directory nowhere" in done.err) == (1, True)


def test_changed_hyper_parameters_do_not_resume(lightning, trained: Path) -> None:
    for option, message in {
        ("--model.optimizer.lr", "0.5"): "model.optimizer.lr:",
        ("--model.label_smoothing", "0.4"): "model.label_smoothing: ",
        ("--data.batch_size", "32"): "data.batch_size: 64 → 32",
        ("--seed_everything", "7"): "seed_everything: 1 → 7",
    }.items():
        done = lightning("fit", "--ckpt_path", trained, *option)
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert message in done.err
        assert f"--init_from {trained}" in done.err


def test_a_finished_run_says_so(lightning, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    done = lightning("fit", "--ckpt_path", trained)
    assert done.status == 0
    assert "this run is finished: 3 of 3 epochs; --trainer.max_epochs 6 continues it" in done.out
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_weights_alone_do_not_resume(lightning, trained: Path) -> None:
    done = lightning("fit", "--ckpt_path", trained / "checkpoints" / "best.ckpt", "--trainer.max_epochs", "9")
    assert done.status == 2
    assert "holds weights only; resume from last.ckpt, or start anew with --init_from" in done.err


@pytest.mark.parametrize("source", ["run", "checkpoint", "state dict"])
def test_a_warm_start_begins_with_the_given_weights(source: str, lightning, tmp_path: Path, trained: Path) -> None:
    weights = resnet18.load_run(trained).model.backbone.state_dict()
    torch.save(weights, tmp_path / "plain.pth")
    place = {"run": trained, "checkpoint": trained / "checkpoints" / "best.ckpt", "state dict": "plain.pth"}[source]
    done = lightning(
        *("fit", "--config", CONFIG, *SHORT, "--init_from", place, "--run_dir", "run", "--model.optimizer.lr", "1e-9")
    )
    assert done.status == 0, done.err
    assert f"weights from {place}\n" in done.out
    started = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in weights.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(started[f"backbone.{name}"], value, rtol=0, atol=1e-6)


def test_torchvisions_weights_start_a_run_with_a_fresh_last_layer(
    lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(7)
    oracle = torchvision.models.resnet18().state_dict()  # what the download would give
    asked = []
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights, "get_state_dict", lambda self, **_: asked.append(self.name) or oracle
    )
    done = lightning(
        *(
            "fit",
            "--model.backbone",
            "resnet18.backbone.ResNet",
            "--model.optimizer",
            "SGD",
            "--model.optimizer.lr",
            "1e-9",
        ),
        *(
            "--data",
            "Digits",
            "--data.rgb",
            "true",
            "--data.batch_size",
            "8",
            "--trainer.max_steps",
            "1",
            "--run_dir",
            "run",
        ),
        *("--trainer.logger", "false", "--trainer.limit_val_batches", "0"),
        *("--init_from", "ResNet18_Weights.IMAGENET1K_V1"),
    )
    assert done.status == 0, done.err
    assert asked == ["IMAGENET1K_V1"]
    assert "weights from ResNet18_Weights.IMAGENET1K_V1, a fresh fc for the new classes" in done.out
    started = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(started["backbone.conv1.weight"], oracle["conv1.weight"], rtol=0, atol=1e-6)
    assert started["backbone.fc.weight"].shape == (10, 512)
    done = lightning("fit", "--config", CONFIG, *SHORT, "--init_from", "ResNet18_Weights.IMAGENET2K")
    assert (done.status, "init_from: " in done.err) == (1, True)


def test_scores_do_not_depend_on_the_batches(lightning, trained: Path) -> None:
    shown = [
        lightning("validate", "--ckpt_path", trained, "--data.eval_batch_size", size).out.splitlines()[-1].split("(")[0]
        for size in (512, 100, 7)  # 143 images: one batch, and ragged last ones of 43 and 3
    ]
    assert shown[0] == shown[1] == shown[2]
