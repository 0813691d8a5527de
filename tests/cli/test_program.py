"""The program by its three names, and what it answers before anything heavy is imported."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import CONFIG, start

import resnet18
from resnet18 import __main__

BIN = Path(sys.executable).parent
NAMES = {
    "lightning": [str(BIN / "lightning")],
    "resnet18": [str(BIN / "resnet18")],
    "python -m resnet18": [sys.executable, "-m", "resnet18"],
}


@pytest.mark.parametrize("name", NAMES)
def test_three_names_are_one_program(name: str, tmp_path: Path) -> None:
    shown = subprocess.run(NAMES[name], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"usage: {name} COMMAND")
    for command in ("fit", "validate", "test", "predict"):
        assert f"\n  {command} " in shown.stdout


def test_version(lightning) -> None:
    assert lightning("--version").out == f"resnet18 {resnet18.__version__}\n"


def test_an_unknown_command_names_the_nearest(lightning) -> None:
    done = lightning("fti", "--config", CONFIG)
    assert (done.status, done.out) == (2, "")
    assert "unknown command 'fti'; did you mean fit? Commands: fit, " in done.err
    assert "unknown command 'nonsense'. Commands: fit, " in lightning("nonsense").err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]])
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str], tmp_path: Path) -> None:
    script = f"""
        import sys
        from resnet18.__main__ import main
        main({arguments!r})
        print(sorted({{"torch", "lightning", "numpy", "wandb", "jsonargparse", "yaml"}} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_not_ours_goes_on_to_lightning_sdk_but_never_to_litserve(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Script:
        def __init__(self, value: str) -> None:
            self.value = value

        def load(self):
            return lambda: called.append(self.value)

    scripts = [Script("litserve.cli:main"), Script("lightning_sdk.cli.entrypoint:main_cli")]
    monkeypatch.setattr(__main__.importlib.metadata, "entry_points", lambda **_: scripts)
    monkeypatch.setattr(sys, "argv", ["lightning"])
    assert __main__.main(["deploy"]) == 0
    assert called == ["lightning_sdk.cli.entrypoint:main_cli"]
    monkeypatch.setattr(sys, "argv", ["resnet18"])
    assert __main__.main(["deploy"]) == 2


def test_a_model_from_a_file_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        textwrap.dedent("""
            from torch import nn

            class MyNet(nn.Sequential):
                def __init__(self, num_classes: int, hidden: int = 16) -> None:
                    super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

            def my_net(num_classes: int) -> nn.Module:
                return MyNet(num_classes)
        """)
    )
    options = ["--model.optimizer", "SGD", "--data", "Digits", "--trainer.fast_dev_run", "2"]
    for name in ("MyNet", "my_net"):
        process = start(["fit", "--model.backbone", f"mynet.{name}", *options], tmp_path, NAMES["lightning"])
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert not (tmp_path / "runs").exists()


def test_print_config_shows_the_merge_and_makes_nothing(
    lightning, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.yaml").write_text("model: {optimizer: {init_args: {lr: 0.5}}}\ntrainer: {max_epochs: 7}\n")
    with pytest.raises(SystemExit) as stopped:
        lightning("fit", "--config", CONFIG, "--config", "more.yaml", "--trainer.max_epochs", "9", "--print_config")
    assert stopped.value.code == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert shown["model"]["optimizer"]["init_args"]["lr"] == 0.5
    assert shown["model"]["optimizer"]["class_path"].startswith("torch.optim.")
    assert shown["trainer"]["max_epochs"] == 9
    assert not (tmp_path / "runs").exists()


def shown_by(lightning, capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        lightning(*arguments)
    assert stopped.value.code == 0
    return capfd.readouterr().out


def test_what_is_only_shown_needs_no_weights(lightning, capfd) -> None:
    assert "flip_tta: false" in shown_by(lightning, capfd, "test", "--print_config=skip_null")


OPAQUE = """
from torch import nn

def create_model(model_name: str, pretrained: bool = False, **kwargs) -> nn.Module:  # as timm's
    assert (model_name, pretrained) == ("small", False)
    assert kwargs.pop("img_size", 8) == 8
    return nn.Sequential(nn.Flatten(), nn.Linear(64, kwargs.pop("num_classes"), **kwargs))
"""


def test_a_function_that_passes_its_arguments_on_gets_the_number_of_classes(lightning, tmp_path: Path) -> None:
    (tmp_path / "mytimm.py").write_text(OPAQUE)
    (tmp_path / "net.yaml").write_text(
        "model:\n  backbone:\n"
        "    {class_path: mytimm.create_model, init_args: {model_name: small}, dict_kwargs: {bias: false}}\n"
    )
    line = ("--model.backbone", "mytimm.create_model", "--model.backbone.model_name", "small")
    fit = ("--model.optimizer", "AdamW", "--data", "Digits", "--trainer.max_epochs", "1", "--trainer.logger", "false")
    for run, options in (
        ("line", line),
        ("file", ("--config", "net.yaml", "--model.backbone.dict_kwargs.img_size", "8")),
    ):
        done = lightning("fit", *options, *fit, "--trainer.limit_train_batches", "2", "--run_dir", run)
        assert done.status == 0, done.err
        shapes = [tuple(weight.shape) for weight in resnet18.load_run(run).model.backbone.parameters()]
        assert shapes == ([(10, 64), (10,)] if run == "line" else [(10, 64)])
        assert lightning("test", "--ckpt_path", run).status == 0
        done = lightning("fit", "--ckpt_path", run, "--trainer.max_epochs", "2")
        assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [("torchvision.models.mobilenet_v3_small", ()), ("torchvision.models.MNASNet", ("--model.backbone.alpha", "0.35"))],
    ids=["function", "class"],
)
def test_a_model_of_torchvision_trains_and_is_tested_without_a_line_of_python(
    backbone: str, arguments: tuple[str, ...], lightning
) -> None:
    fit = lightning(
        *("fit", "--model.backbone", backbone, *arguments, "--model.optimizer", "AdamW"),
        *("--data", "Digits", "--data.rgb", "true", "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1"),
        *("--trainer.logger", "false", "--run_dir", "run"),
    )
    assert fit.status == 0, fit.err
    model = resnet18.load_run("run").model
    assert type(model.backbone).__module__.startswith("torchvision.models")
    assert list(model.backbone.state_dict().values())[-1].shape == (10,)  # the data's number of classes came through
    assert lightning("test", "--ckpt_path", "run").status == 0
