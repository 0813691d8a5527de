"""What comes back from a run: scores, predictions, a model in a notebook, a start for the next run."""

import csv
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import CONFIG, SMALL, picture_folder

import resnet18
from resnet18 import ImageTensors
from resnet18.errors import RunError
from resnet18.runs import append_evaluation, read_evaluations

SHORT = (*SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.limit_train_batches", "2")


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


def test_every_evaluation_is_kept_with_what_it_was_made_with(lightning, tmp_path: Path, trained: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "evaluations.jsonl"))
    first = ("test", "--ckpt_path", run, "--flip_tta", "true", "--trainer.limit_test_batches", "1")
    assert lightning(*first).status == 0
    assert (
        lightning("test", "--ckpt_path", run / "checkpoints" / "last.ckpt", "--data.eval_batch_size", "7").status == 0
    )
    assert lightning("validate", "--ckpt_path", run).status == 0
    averaged, plain, validated = resnet18.load_run(run).evaluations
    assert [found["command"] for found in (averaged, plain, validated)] == ["test", "test", "validate"]
    assert [found["checkpoint"] for found in (averaged, plain)] == ["checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    assert [found["flip_tta"] for found in (averaged, plain)] == [True, False]
    assert averaged["given"] == {"trainer.limit_test_batches": 1}
    assert plain["given"] == {"data.eval_batch_size": 7}
    assert validated["given"] == {}
    assert plain["step"] == 60
    assert averaged["date"] <= plain["date"] <= validated["date"]
    assert {found["split_hash"] for found in (averaged, plain)} == {resnet18.load_run(run).data.split_hash}
    assert 0 < plain["test/top1"] < plain["test/top5"] <= 1
    assert validated["val/top1"] == pytest.approx(max(resnet18.load_run(run).curve("val/top1")[1]), rel=1e-5)


def test_of_evaluations_at_the_same_time_none_is_lost(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best.ckpt"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_evaluation(tmp_path, "test", best, {"n": n, "note": 999 * "x"}), range(200)))
    assert {found["n"] for found in read_evaluations(tmp_path)} == set(range(200))


def test_scores_that_cant_be_kept_are_scores_all_the_same(lightning, tmp_path: Path, trained: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "evaluations.jsonl"))
    (run / "evaluations.jsonl").symlink_to("/dev/full")
    done = lightning("validate", "--ckpt_path", run)
    assert done.status == 0
    assert "val/top1" in done.out
    assert "run/evaluations.jsonl can't be written: No space left on device; the scores are kept nowhere" in done.err


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


def test_a_value_given_beats_the_stored_one_and_says_so(lightning, trained: Path) -> None:
    done = lightning(
        "validate", "--ckpt_path", trained, "--data.eval_batch_size", "7", "--trainer.precision", "bf16-mixed"
    )
    assert done.status == 0, done.err
    assert "given here, not as stored: data.eval_batch_size: 512 → 7" in done.out
    assert "given here, not as stored: trainer.precision: 32-true → bf16-mixed" in done.out


def test_the_model_of_a_checkpoint_can_not_be_changed(lightning, trained: Path) -> None:
    done = lightning("test", "--ckpt_path", trained, "--model.backbone.stem", "imagenet")
    assert done.status == 2
    assert "the model comes from the checkpoint; changed: model.backbone.stem: cifar → imagenet" in done.err


def test_other_data_than_the_checkpoints_are_refused_with_both_hashes(lightning, trained: Path) -> None:
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


def test_a_run_comes_back_in_a_notebook(trained: Path) -> None:
    run = resnet18.load_run(trained)
    assert run.checkpoint_path.name == "best.ckpt"
    assert not run.model.training
    assert run.model.class_names == list("0123456789")
    assert run.config["trainer"]["max_epochs"] == 3
    assert run.data.batch_size == 64
    assert run.data.seed == 1
    steps, top1 = run.curve("val/top1")
    assert steps == [20, 40, 60]
    assert all(0 <= value <= 1 for value in top1)
    with pytest.raises(KeyError, match=r"val/top2 was not logged; .*val/top1"):
        run.curve("val/top2")
    with pytest.raises(RunError, match="there is no checkpoint or run nowhere"):
        resnet18.load_run("nowhere")


MINE = """
from torch import nn

class Untyped(nn.Module):
    def __init__(self, num_classes, hidden=8, **options) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, x):
        return self.layers(x)

def by_name(name: str, **options) -> nn.Module:
    return globals()[name](**options)
"""


def test_a_network_of_ones_own_comes_back_as_the_program_took_it(
    lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text(MINE)
    options = ("--model.backbone", "mynet.Untyped", "--model.backbone.hidden", "12", "--run_dir", "run")
    done = lightning("fit", "--config", CONFIG, *SHORT[2:], *options)
    assert done.status == 0, done.err
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    weights = resnet18.load_run("run").model.backbone.state_dict()
    assert weights["layers.1.weight"].shape == (12, 64)

    checkpoint = torch.load(path, weights_only=True)
    taken = {"num_classes": 10, "hidden": 12}
    described = {"class_path": "mynet.by_name", "init_args": {"name": "Untyped"}, "dict_kwargs": taken}
    torch.save({**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], "backbone": described}}, path)
    monkeypatch.chdir("/")
    back = resnet18.load_run(path).model.backbone.state_dict()
    assert all(torch.equal(value, back[name]) for name, value in weights.items())

    monkeypatch.delitem(sys.modules, "mynet")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    with pytest.raises(
        RunError, match=f"^{path}: there is no module mynet; put its folder on sys.path, or install it$"
    ):
        _ = resnet18.load_run(path).model


def test_images_that_moved_are_looked_for_where_one_says(lightning, tmp_path: Path) -> None:
    picture_folder(tmp_path / "images/train", each=11)
    options = (
        "--data.root",
        "images",
        "--data.cache_dir",
        "cache",
        "--data.image_size",
        "16",
        "--data.batch_size",
        "4",
    )
    config = CONFIG.with_name("imagefolder.yaml")
    done = lightning("fit", "--config", config, *SHORT, *options, "--run_dir", "run")
    assert done.status == 0, done.err
    assert resnet18.load_run("run").data.class_names == ("cat", "dog")
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(RunError) as error:
        _ = resnet18.load_run("run").data
    assert "data.root: there is no directory images; images/train/<class>/ with images is expected" in str(error.value)
    assert str(error.value).endswith("; load_run(…, data={'root': …}) says where it is now")
    assert len(str(error.value).splitlines()) == 1
    run = resnet18.load_run("run", data={"root": "moved"})
    run.data.setup("fit")
    assert run.data.val is not None


def test_a_checkpoint_on_its_own_is_enough(tmp_path: Path, trained: Path) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    run = resnet18.load_run(tmp_path / "alone.ckpt")
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(run.model(images), resnet18.load_run(trained).model(images))
    assert run.directory is None
    assert run.metrics == []
    assert run.data.split_hash == resnet18.Digits().split_hash
    assert resnet18.Classifier.load_from_checkpoint(tmp_path / "alone.ckpt").num_classes == 10


def test_changed_hyper_parameters_do_not_resume(lightning, trained: Path) -> None:
    for option, told in {
        ("--model.optimizer.lr", "0.5"): "model.optimizer.lr:",
        ("--model.label_smoothing", "0.4"): "model.label_smoothing: ",
        ("--data.batch_size", "32"): "data.batch_size: 64 → 32",
        ("--seed_everything", "7"): "seed_everything: 1 → 7",
    }.items():
        done = lightning("fit", "--ckpt_path", trained, *option)
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert told in done.err
        assert f"--init_from {trained}" in done.err


def test_a_finished_run_says_so(lightning, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    done = lightning("fit", "--ckpt_path", trained)
    assert done.status == 0
    assert "this run is finished: 3 of 3 epochs; --trainer.max_epochs 6 trains on" in done.out
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
