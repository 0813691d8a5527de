"""Any network: timm's functions, functions without annotations, and networks for another number of classes."""

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from resnet18 import Classifier, Digits, load_run
from resnet18.errors import RunError
from resnet18.storage.networks import make_network

TIMM = """
from torch import nn

_models = {}

def resnet10t(pretrained=False, **kwargs):
    return nn.Sequential(nn.Flatten(), nn.Linear(kwargs.pop("in_chans", 3) * 64, kwargs.pop("num_classes", 1000)))

def create_model(model_name: str, pretrained: bool = False, pretrained_cfg=None, checkpoint_path: str = "", **kwargs):
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    assert not checkpoint_path
    return globals()[model_name](pretrained=pretrained, **kwargs)

def load_checkpoint(model, checkpoint_path):
    open("called", "w")
"""
NETS = """
from torch import nn

def untyped(num_classes, hidden=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

def sized(hidden, num_classes):
    return untyped(num_classes, hidden)

def behind(hidden=8, **kwargs):
    return untyped(hidden=hidden, **kwargs)

def unfollowed(**kwargs) -> nn.Module:
    return globals()["unty" + "ped"](**kwargs)

class Untyped(nn.Sequential):
    def __init__(self, num_classes, hidden=8):
        super().__init__(*untyped(num_classes, hidden))

class Fixed(nn.Sequential):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__(*untyped(1000, hidden))

def fixed(hidden: int = 8) -> nn.Module:
    return untyped(1000, hidden)

class FixedConvolution(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 1000, 6), nn.Flatten())

class FixedNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))

def cleanup(root="everything"):
    open("called", "w")
"""
FIT = (
    *("fit", "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--data", "Digits", "--trainer.logger"),
    *("false", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--run_dir", "run"),
)


@pytest.fixture
def own(lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The program, in a directory with the user's networks, and with a package of timm's shape installed."""
    packages = tmp_path / "lib" / "site-packages"
    (packages / "timm").mkdir(parents=True)
    (packages / "timm" / "__init__.py").write_text(TIMM)
    (packages / "strange.py").write_text(NETS)
    (tmp_path / "mynet.py").write_text(NETS)
    for name in ("timm", "strange"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(packages)
    return lightning


NETWORKS = {
    "timm": ("timm.create_model", "--model.backbone.model_name", "resnet10t", "--data.rgb", "true"),
    "timm with an argument of its own": (
        *("timm.create_model", "--model.backbone.model_name", "resnet10t"),
        *("--model.backbone.dict_kwargs.in_chans", "1"),
    ),
    "function without annotations": ("mynet.untyped",),
    "function without annotations, and an option": ("mynet.untyped", "--model.backbone.hidden", "6"),
    "arguments passed on": ("mynet.behind",),
    "arguments passed on where nobody can follow": ("mynet.unfollowed",),
    "class without annotations": ("mynet.Untyped",),
    "class for 1000 classes": ("mynet.Fixed",),
    "function for 1000 classes": ("mynet.fixed",),
    "convolution for 1000 classes": ("mynet.FixedConvolution",),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_tested_resumed_and_loaded(name: str, own) -> None:
    done = own(*FIT, "--model.backbone", *NETWORKS[name])
    assert done.status == 0, done.err
    fresh = "takes no num_classes, and its last layer"
    assert (fresh in done.out) == ("1000" in name)
    done = own("test", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert fresh not in done.out
    model = load_run("run").model
    assert list(model.backbone.parameters())[-1].shape == (10,)
    channels = 3 if "--data.rgb" in NETWORKS[name] else 1
    assert model(torch.zeros(2, channels, 8, 8, dtype=torch.uint8)).shape == (2, 10)
    done = own("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2")
    assert done.status == 0, done.err
    assert fresh not in done.out


def test_the_message_names_the_fresh_last_layer(own) -> None:
    done = own(*FIT, "--model.backbone", "mynet.Fixed")
    notice = "Fixed takes no num_classes, and its last layer 3 had a width of 1000: it starts afresh with 10\n"
    assert f"model.backbone: {notice}" in done.out


REFUSED: dict[tuple[str, ...], str] = {
    ("mynet.FixedNorm",): "its last layer 2 is a BatchNorm1d: only a Linear or a Conv2d can be given another width",
    ("mynet.cleanup",): "mynet.cleanup has to say what it returns: def cleanup(",
    ("strange.untyped",): "strange.untyped has to say what it returns: def untyped(num_classes: int) -> nn.Module",
    ("timm.resnet10t",): "timm.resnet10t has to say what it returns",
    ("timm.load_checkpoint",): "timm.load_checkpoint has to say what it returns",
    (
        *("timm.create_model", "--model.backbone.model_name", "resnet10t"),
        *("--model.backbone.in_chans", "1"),
    ): "model.backbone.in_chans: create_model takes no in_chans; dict_kwargs.in_chans goes to its **kwargs",
    ("shutil.rmtree",): "shutil.rmtree is not a model",
    (
        *("timm.create_model", "--model.backbone.model_name", "resnet10t"),
        *("--model.backbone.checkpoint_path", "evil.pth"),
    ): "model.backbone.checkpoint_path would load weights that could run code; use --init_from",
    (
        *("timm.create_model", "--model.backbone.model_name", "hf-hub:someone/net"),
    ): "model.backbone.model_name would load weights that could run code",
}


@pytest.mark.parametrize("network", REFUSED, ids=" ".join)
def test_anything_but_a_network_is_refused_and_not_called(network: tuple[str, ...], own) -> None:
    done = own(*FIT, "--model.backbone", *network)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert REFUSED[network] in done.err
    assert not Path("called").exists()
    assert not Path("run").exists()


@pytest.mark.parametrize("path", ["mynet.cleanup", "strange.untyped", "timm.load_checkpoint"])
def test_a_checkpoint_calls_no_unannotated_function(path: str, own) -> None:
    assert own(*FIT, "--model.backbone", "mynet.untyped").status == 0
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    network = {"class_path": path, "init_args": {}}
    checkpoint["config"]["model"]["backbone"] = checkpoint["hyper_parameters"]["backbone"] = network
    torch.save(checkpoint, "evil.ckpt")
    done = own("test", "--ckpt_path", "evil.ckpt")
    assert done.status != 0
    assert path in done.err
    with pytest.raises(RunError, match=path):
        load_run("evil.ckpt").model  # noqa: B018
    Path("evil.yaml").write_text(yaml.safe_dump({"model": {"optimizer": network}}))
    done = own("fit", "--config", "evil.yaml", *FIT[5:-1], "other", "--model.backbone", "mynet.untyped")
    assert done.status == 2, done.err
    assert not Path("called").exists()


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Networks in a file in the working directory."""
    (tmp_path / "mynet.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return importlib.import_module("mynet")


@pytest.mark.parametrize(
    ("name", "given", "described"),
    [
        ("Untyped", {}, {"init_args": {"num_classes": 10}}),
        ("untyped", {"hidden": 4}, {"init_args": {"hidden": 4, "num_classes": 10}}),
        ("behind", {"hidden": 4}, {"init_args": {"hidden": 4, "num_classes": 10}}),
        ("unfollowed", {"hidden": 4}, {"dict_kwargs": {"hidden": 4, "num_classes": 10}}),
        ("Fixed", {"hidden": 4}, {"init_args": {"hidden": 4}}),
        ("fixed", {}, {}),
    ],
)
def test_a_network_made_in_python_is_described_as_by_the_command_line(
    name: str, given: dict[str, Any], described: dict[str, Any], nets: Any
) -> None:
    made = functools.partial(getattr(nets, name), **given) if given else getattr(nets, name)
    network, found = make_network(made, 10)
    assert found == {"class_path": f"mynet.{name}", **described}
    model = Classifier.for_data(Digits(), made, torch.optim.SGD)
    described = {key: model.hparams[key] for key in ("backbone", "num_classes", "mean", "std")}
    torch.save({"hyper_parameters": described, "state_dict": model.state_dict()}, "model.ckpt")
    back = load_run("model.ckpt").model
    assert all(torch.equal(one, back.state_dict()[key]) for key, one in model.state_dict().items())
    assert [one.shape for one in network.parameters()] == [one.shape for one in back.backbone.parameters()]


def test_what_can_not_be_named_is_not_described(nets: Any) -> None:
    class Local(nets.Untyped):
        pass

    network = nets.Untyped(10)
    assert make_network(network, 10) == (network, None)
    for made in (Local, lambda num_classes: nets.Untyped(num_classes), functools.partial(nets.sized, 4)):
        network, described = make_network(made, 10)
        assert described is None
        assert network[-1].out_features == 10  # type: ignore[index]


def test_functions_of_a_session_need_no_annotation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nets: Any) -> None:
    session = type(sys)("__main__")
    exec("from torch import nn\ndef net(num_classes):\n    return nn.Linear(64, num_classes)", vars(session))
    exec("def wipe(**kwargs):\n    open('called', 'w')", vars(session))
    monkeypatch.setitem(sys.modules, "__main__", session)
    model = Classifier.for_data(Digits(), vars(session)["net"], torch.optim.SGD)
    described = {key: model.hparams[key] for key in ("backbone", "num_classes", "mean", "std")}
    assert described["backbone"] == {"class_path": "__main__.net", "init_args": {"num_classes": 10}}
    content = {"hyper_parameters": described, "state_dict": model.state_dict()}
    torch.save(content, "model.ckpt")
    assert load_run("model.ckpt").model.backbone.out_features == 10
    wiping = {**described, "backbone": {"class_path": "__main__.wipe", "init_args": {}}}
    torch.save({**content, "hyper_parameters": wiping}, "evil.ckpt")
    with pytest.raises(RunError, match=r"evil\.ckpt"):
        _ = load_run("evil.ckpt").model
    assert not Path("called").exists()
    del session.net
    with pytest.raises(RunError, match=r"__main__.*; define it here first, or give it as backbone=…$"):
        _ = load_run("model.ckpt").model
