"""The way back from a run to its model, its data and its numbers, as a notebook takes it."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from conftest import CONFIG, SMALL, copied, picture_folder
from python_runs import NET, Stripes, python_run
from torch.nn import Identity

import resnet18
from resnet18.errors import RunError
from resnet18.storage.records import read_metrics

matplotlib.use("Agg")

SHORT = (*SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.limit_train_batches", "2")


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
    with pytest.raises(RunError, match=r"best.ckpt: .*Option 'nonsense' is not accepted$"):
        _ = resnet18.load_run(trained, data={"nonsense": 1}).data


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


def test_your_own_network_comes_back_as_the_program_made_it(
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


def test_images_that_moved_are_found_where_you_say(lightning, tmp_path: Path) -> None:
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
        "--data.eval_share",
        "0.8",
    )
    config = CONFIG.with_name("imagefolder.yaml")
    done = lightning("fit", "--config", config, *SHORT, *options, "--run_dir", "run")
    assert done.status == 0, done.err
    assert resnet18.load_run("run").data.class_names == ("cat", "dog")
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    del checkpoint["hyper_parameters"]["eval_share"], checkpoint["hyper_parameters"]["interpolation"]
    torch.save(checkpoint, "older.ckpt")
    assert resnet18.load_run("older.ckpt").model.eval_share == resnet18.load_run("run").model.eval_share == 0.8
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


@pytest.mark.parametrize("path", ["os.system", "torch.hub.set_dir"])
def test_data_that_name_foreign_code_are_refused(path: str, tmp_path: Path, trained: Path) -> None:
    hub = torch.hub.get_dir()
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["config"]["data"] = {"class_path": path, "init_args": {"d": "touched", "command": "touch touched"}}
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    for options in ({}, {"seed": {"class_path": path, "init_args": {"d": "touched"}}}):
        with pytest.raises(RunError, match=path):
            _ = resnet18.load_run(tmp_path / "evil.ckpt", data=options).data
    assert not Path("touched").exists()
    assert torch.hub.get_dir() == hub


def test_a_checkpoint_of_a_plain_trainer_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, path = Stripes(("a", "b", "c")), tmp_path / "model.ckpt"
    run = python_run(path, data)
    assert (run.data, run.directory, run.metrics, run.evaluations, run.evaluation("val")) == (data, None, [], [], {})
    assert repr(run) == f"ResNet, 175,947 parameters\n{path}"
    monkeypatch.chdir(tmp_path)
    assert repr(run).splitlines()[1] == "model.ckpt"
    alone = resnet18.load_run("model.ckpt")
    monkeypatch.chdir("/")
    assert alone.model.class_names == ["a", "b", "c"]
    assert len(alone.predict(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))) == 2
    with pytest.raises(
        RunError, match=r"model\.ckpt does not describe its data; load_run\(…, data=…\) takes the source$"
    ):
        alone.evaluate()
    with pytest.raises(RunError, match=r"model\.ckpt holds no configuration, so it is not a checkpoint of a run"):
        _ = alone.config
    assert list(tmp_path.iterdir()) == [path]  # nothing is kept where there is no run


def test_a_network_made_in_python_is_given_again(tmp_path: Path) -> None:
    path, made = tmp_path / "model.ckpt", NET(num_classes=2)
    python_run(path, Stripes(), made)
    with pytest.raises(RunError, match=r"its backbone was an object made in Python; backbone=… takes it, or the class"):
        _ = resnet18.load_run(path).model
    assert "its backbone was an object" in repr(resnet18.load_run(path))
    for backbone in (made, NET, partial(NET, width=8)):
        back = resnet18.load_run(path, backbone=backbone).model
        assert all(torch.equal(one, back.backbone.state_dict()[name]) for name, one in made.state_dict().items())
    with pytest.raises(RunError, match="does not fit the model it is for"):
        _ = resnet18.load_run(path, backbone=partial(NET, width=9)).model
    with pytest.raises(RunError, match="does not fit the model it is for"):
        _ = resnet18.load_run(path, backbone=Identity()).model
    with pytest.raises(TypeError, match=r"^data: expected options, as a dict, or an ImageDataModule, not a str$"):
        resnet18.load_run(path, data="digits")  # type: ignore[arg-type]


def test_a_run_without_a_checkpoint_can_be_looked_at(trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    young = resnet18.load_run(run.parent / "latest")
    assert len(young.curve("val/top1")[0]) == 3
    assert len(young.plot()) == 3
    assert repr(young).startswith(f"digits/{run.name}: finished, epoch 3 of 3, best val/top1 ")
    for look in (lambda: young.model, lambda: young.predict([]), young.evaluate, lambda: young.config):
        with pytest.raises(
            RunError, match=r"holds no checkpoints/best\.ckpt or .* yet; run\.watch\(\) shows how far it is$"
        ):
            look()
    shutil.copy(trained / "checkpoints" / "last.ckpt", run / "checkpoints")
    assert young.model.num_classes == 10
    plt.close("all")


def test_latest_stays_the_run_that_it_was(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(trained, tmp_path)
    monkeypatch.chdir(run.parent)
    loaded = resnet18.load_run("latest")
    (run.parent / "latest").unlink()
    (run.parent / "latest").symlink_to("another")
    monkeypatch.chdir("/")
    assert loaded.directory == run
    assert loaded.model.num_classes == 10
    assert len(loaded.metrics) > 3
    with pytest.raises(RunError, match="there is no checkpoint or run"):
        resnet18.load_run(run.parent / "latest")


def test_epochs_and_steps_are_counted_as_on_the_screen(trained: Path, tmp_path: Path) -> None:
    run = resnet18.load_run(trained)
    assert [(row["epoch"], row["step"]) for row in run.metrics if "val/top1" in row] == [(1, 20), (2, 40), (3, 60)]
    stored = read_metrics(trained)
    assert [(row["epoch"] + 1, row["step"] + 1) for row in stored] == [
        (row["epoch"], row["step"]) for row in run.metrics
    ]
    best = [row["best/epoch"] for row in run.metrics if "best/epoch" in row]
    assert best == [row["best/epoch"] + 1 for row in stored if "best/epoch" in row]
    assert all(type(row[name]) is int for row in run.metrics for name in ("epoch", "step"))
    kept = json.loads((trained / "evaluation-val.json").read_text())
    assert run.evaluation("val") == {**kept, "epoch": kept["epoch"] + 1}
    assert (run.evaluation("val")["epoch"], run.evaluation("val")["step"]) == (best[-1], 20 * best[-1])
    assert run.evaluation("test") == {}
    copy = copied(trained, tmp_path)
    for epoch in (3, 4):
        with (copy / "metrics.csv").open("a") as file:
            file.write(f"{epoch},{20 * epoch + 19}\n")
    assert resnet18.load_run(copy).metrics[-1]["epoch"] == 5  # read anew each time


def test_a_run_says_what_it_is(lightning, trained: Path, tmp_path: Path) -> None:
    run = resnet18.load_run(trained)
    state, test, network, place = repr(run).splitlines()
    best = f"best val/top1 {100 * max(run.curve('val/top1')[1]):.2f} % in epoch {run.evaluation()['epoch']}"
    assert state == f"digits/{trained.name}: finished, epoch 3 of 3, {best}"
    assert test == "not tested"
    assert network == "ResNet, 176,258 parameters"
    assert place == str(trained)
    assert f"<bdi>{state}</bdi><br>" in run._repr_html_()
    assert "<table" in run.metrics._repr_html_()
    copy = copied(trained, tmp_path)
    assert lightning("test", "--ckpt_path", copy, "--trainer.logger", "false").status == 0
    assert repr(resnet18.load_run(copy)).splitlines()[1].startswith("test/loss ")
    assert resnet18.load_run(copy).evaluations.frame().shape[0] == 1
    (copy / "config.yaml").write_text("[")
    assert "can't be read" in repr(resnet18.load_run(copy))


SIX_LINES = """
from resnet18 import load_run
run = load_run("runs/digits/latest")
curves = run.plot()
found = run.evaluate()
confusion = found.plot_confusion()
mistakes = found.plot_worst()
"""


def test_curves_confusion_and_mistakes_take_six_lines(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(trained, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(SIX_LINES, names)
    assert len(SIX_LINES.strip().splitlines()) == 6
    assert (len(names["curves"]), len(names["mistakes"])) == (3, 12)
    assert names["confusion"].get_title("left").endswith(" of 143")
    plt.close("all")
    assert os.listdir() == ["runs"]
