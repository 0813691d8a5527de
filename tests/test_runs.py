"""The way back from a run to its model, its data and its numbers, as a notebook takes it."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, SMALL, picture_folder

import resnet18
from resnet18.errors import RunError

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
