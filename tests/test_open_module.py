"""A LightningModule of the user's own, in a file of their own, through every command."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN

from resnet18 import Classifier, load_run
from resnet18.errors import RunError

MODEL = """
import torch
from resnet18 import Classifier

class MyClassifier(Classifier):
    '''The focal loss of https://arxiv.org/abs/1708.02002.

    Args:
        gamma: How little the easy images count.
    '''

    def __init__(self, gamma: float = 2.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        logs = self(images).log_softmax(1).gather(1, labels[:, None])
        return -((1 - logs.exp()) ** self.gamma * logs).mean()

class Closed(Classifier):
    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__(backbone, torch.optim.SGD, num_classes=10, mean=[0.5], std=[0.5])

class Other(Classifier):
    pass

class NoClassifier(torch.nn.Module):
    pass
"""
OPTIONS = DROPOUT_RUN[1:]
RUN = ("fit", "--model", "mymodel.MyClassifier", "--model.gamma", "1.5", *OPTIONS)


@pytest.fixture
def own(lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The program, in a directory with the files of a network and of modules."""
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    (tmp_path / "mymodel.py").write_text(MODEL)
    monkeypatch.delitem(__import__("sys").modules, "mymodel", raising=False)
    return lightning


def shown(own, capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        own(*arguments)
    assert stopped.value.code == 0
    return capfd.readouterr().out


def test_every_command_takes_it_and_a_run_knows_its_class(own, tmp_path: Path) -> None:
    done = own(*RUN, "--trainer.max_epochs", "1", "--run_dir", "run")
    assert done.status == 0, done.err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["model"]["class_path"] == "mymodel.MyClassifier"
    assert config["model"]["init_args"]["gamma"] == 1.5
    assert Path("run/code/mymodel.py").read_text() == MODEL
    for command in ("validate", "test", "predict"):
        done = own(command, "--ckpt_path", "run")
        assert done.status == 0, done.err
    done = own("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2")
    assert done.status == 0, done.err
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"] == config["model"]
    for model in (load_run("run").model, Classifier.load_from_checkpoint("run/checkpoints/last.ckpt")):
        assert type(model).__name__ == "MyClassifier"
        assert model.gamma == 1.5
    done = own("fit", "--config", "run/config.yaml", "--run_dir", "again", "--trainer.max_epochs", "1")
    assert done.status == 0, done.err
    assert load_run("again").model.gamma == 1.5


def test_the_forms_of_a_file_and_of_the_command_line_are_one(own, tmp_path: Path, capfd) -> None:
    Path("own.yaml").write_text(
        "model: {class_path: mymodel.MyClassifier, init_args: {gamma: 3, backbone: mynet.WithDropout}}\n"
    )
    Path("short.yaml").write_text("model: {label_smoothing: 0.25}\n")
    common = ("--model.optimizer", "SGD", "--data", "Digits", "--print_config")
    texts = [
        shown(own, capfd, "fit", "--config", "own.yaml", "--config", "short.yaml", *common),
        shown(
            own,
            capfd,
            "fit",
            "--model=mymodel.MyClassifier",
            "--config",
            "short.yaml",
            *common[:-1],
            "--model.init_args.gamma=3",
            "--model.backbone",
            "mynet.WithDropout",
            common[-1],
        ),
    ]
    first, second = map(yaml.safe_load, texts)
    assert first["model"] == second["model"]
    assert first["model"]["class_path"] == "mymodel.MyClassifier"
    values = first["model"]["init_args"]
    assert (values["gamma"], values["label_smoothing"]) == (3.0, 0.25)
    plain = yaml.safe_load(shown(own, capfd, "fit", "--config", CONFIG, "--print_config"))
    assert "class_path" not in plain["model"]
    page = shown(own, capfd, "fit", "--model", "mymodel.MyClassifier", "--help")
    assert "--model.gamma 2.0" in page
    assert "How little the easy images count." in page


WRONG: dict[tuple[str, ...], str] = {
    ("--model", "mymodel.MyClasifier"): "model: mymodel has no MyClasifier; did you mean MyClassifier?",
    ("--model", "mymodl.MyClassifier"): "model: there is no module mymodl; did you mean mymodel?",
    ("--model", "mymodel.NoClassifier"): "model: mymodel.NoClassifier is not a subclass of Classifier",
    ("--model", "torch.nn.Linear"): "model: torch.nn.Linear is not a subclass of Classifier",
    ("--model", "os.system"): "model: os.system is not a model, ",
    ("--model", "mymodel.Closed"): "model: Closed takes no num_classes and no mean and no std",
    ("--model", "mymodel.MyClassifier", "--model.gama", "1"): "option model.gama; did you mean model.gamma?",
    ("--model", "mymodel.MyClassifier", "--model.gamma", "x"): "model.gamma: expected a number, not 'x'",
    ("--model.gamma", "1"): "there is no option model.gamma",
    ("--config", "wrong.yaml"): "wrong.yaml: model: mymodel has no Mine",
    ("--config", "beside.yaml"): "beside.yaml: model.gamma: there is no such key; the arguments of a class belong in",
    ("--config", "misspelt.yaml"): "misspelt.yaml: model.gama: there is no such key; did you mean model.gamma?",
}  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=" ".join)
def test_a_mistake_costs_a_line(options: tuple[str, ...], own) -> None:
    Path("wrong.yaml").write_text("model: {class_path: mymodel.Mine}\n")
    Path("beside.yaml").write_text("model: {class_path: mymodel.MyClassifier, gamma: 2}\n")
    Path("misspelt.yaml").write_text("model: {class_path: mymodel.MyClassifier, init_args: {gama: 2}}\n")
    done = own("fit", *OPTIONS, *options)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert WRONG[options] in done.err
    assert not Path("runs").exists()


def test_a_checkpoint_keeps_its_class_and_calls_no_other(own, tmp_path: Path) -> None:
    assert own(*RUN, "--trainer.max_epochs", "1", "--run_dir", "run").status == 0
    for command in ("fit", "test"):
        done = own(command, "--ckpt_path", "run", "--model", "mymodel.Other")
        assert done.status == 2
        assert "changed: model: mymodel.MyClassifier → mymodel.Other" in done.err
    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    for path in ("os.system", "torch.hub.set_dir", "mymodel.NoClassifier", "gone.Mine"):
        name = path.removesuffix(".Mine")
        checkpoint["hyper_parameters"]["_class_path"] = checkpoint["config"]["model"]["class_path"] = path
        torch.save(checkpoint, "evil.ckpt")
        done = own("test", "--ckpt_path", "evil.ckpt")
        assert done.status != 0
        assert name in done.err
        with pytest.raises(RunError, match=name):
            load_run("evil.ckpt").model  # noqa: B018


OLD_LOGGER = """
trainer:
  logger:
    class_path: resnet18.loggers.WandbRun
    init_args: {project: mine}
"""


def test_class_paths_of_older_runs_still_work(own, tmp_path: Path) -> None:
    Path("old.yaml").write_text(OLD_LOGGER)
    options = [option for option in OPTIONS if option not in ("--trainer.logger", "false")]
    done = own("fit", *options, "--config", "old.yaml", "--trainer.max_epochs", "1", "--run_dir", "run")
    assert done.status == 0, done.err
    text = Path("run/config.yaml").read_text()
    assert "resnet18.storage.loggers.WandbRun" in text
    path = Path("run/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["trainer"]["logger"]["class_path"] = "resnet18.loggers.WandbRun"
    torch.save(checkpoint, path)
    done = own("fit", "--ckpt_path", "run", "--trainer.max_epochs", "2")
    assert done.status == 0, done.err
    assert "not as stored: trainer.logger" not in done.out
