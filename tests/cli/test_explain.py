"""Bad input through the real program: at most ten lines, with file, key and nearest right name; nothing is written."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG


class Touch:
    """Makes a directory when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("touched",)


def changed(tmp_path: Path, **changes: object) -> Path:
    """A copy of the main configuration with a key of one of its groups changed or added: model.optimizer=…"""
    config = yaml.safe_load(CONFIG.read_text())
    config["trainer"]["fast_dev_run"] = True  # what is not refused ends soon
    for key, value in changes.items():
        *path, name = key.split("__")
        place = config
        for part in path:
            place = place[part]
        place[name] = value
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "mine.yaml"


IN_FILES = {
    "misspelt group key": ({"trainer__max_epocs": 3}, "trainer.max_epocs", "did you mean trainer.max_epochs?"),
    "misspelt model key": ({"model__label_smoothin": 0.1}, "model.label_smoothin", "label_smoothing?"),
    "misspelt group": ({"modle": {"compile": True}}, "modle", "did you mean model?"),
    "misspelt empty group": ({"trainr": {}}, "trainr", "did you mean trainer?"),
    "misspelt class key": ({"data__init_args__batchsize": 3}, "data.batchsize", "did you mean batch_size?"),
    "misspelt optimizer key": (
        {"model__optimizer": {"class_path": "torch.optim.SGD", "init_args": {"momentun": 0.9}}},
        "model.optimizer.momentun",
        "did you mean momentum?",
    ),
    "wrong type": ({"data__init_args__batch_size": "many"}, "data.batch_size", "expected a whole number, not 'many'"),
    "wrong choice": ({"model__backbone__init_args__stem": "cifer"}, "model.backbone.stem", "did you mean cifar?"),
    "out of range": ({"model__backbone__init_args__width": 0}, "model.backbone.width", "at least 1, not 0"),
    "bad schedule": ({"model__schedule__init_args__warmup": 2}, "model.schedule.warmup", "below 1, not 2"),
    "unknown class": ({"model__optimizer": {"class_path": "Adamm"}}, "model.optimizer", "did you mean Adam?"),
    "unknown name in a module": (
        {"model__optimizer": {"class_path": "torch.optim.SDG"}},
        "model.optimizer",
        "torch.optim has no SDG; did you mean SGD?",
    ),
    "unknown module": ({"model__backbone": {"class_path": "mynett.Net"}}, "model.backbone", "no module mynett"),
    "dotted key": (
        {"model.optimizer.lr": 0.1},
        "model.optimizer.lr",
        "the arguments of a class belong in its init_args",
    ),
    "learning rate by its long name": (
        {"model__optimizer__init_args__learning_rate": 0.1},
        "model.optimizer.learning_rate",
        "did you mean lr?",
    ),
    "name that leads out of runs/": ({"experiment": "../../x"}, "experiment", "without slashes"),
    "test metric as monitor": ({"best": {"monitor": "test/top1"}}, "best.monitor", "choose by the test images"),
    "unknown metric watched": (
        {"trainer__callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/los"}}]},
        "trainer.callbacks[0].monitor",
        "did you mean val/loss?",
    ),
    "unknown metric as monitor": ({"best": {"monitor": "val/topp1"}}, "best.monitor", "val/top1"),
    "unknown name beside one that is nearer": ({"trainer__max_step": 3}, "trainer.max_step", "trainer.max_steps?"),
    "misspelt group within a group": (
        {"model__schedul": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}},
        "model.schedul: ",
        "did you mean model.schedule?",
    ),
    "argument beside init_args": (
        {"model__optimizer": {"class_path": "torch.optim.SGD", "lr": 0.1}},
        "model.optimizer.lr",
        "belong in its init_args",
    ),
    "mapping for a number": ({"model__label_smoothing": {"value": 1}}, "model.label_smoothing", "expected a number"),
    "null for a number": (
        {"data__init_args__batch_size": None},
        "data.batch_size",
        "expected a whole number, not null",
    ),
    "no number": ({"model__optimizer__init_args__lr": float("nan")}, "model.optimizer.lr", "finite number, not nan"),
    "infinite rate": (
        {"model__optimizer__init_args__lr": float("inf")},
        "model.optimizer.lr",
        "finite number, not inf",
    ),
    "negative rate": ({"model__optimizer__init_args__lr": -1.0}, "model.optimizer.lr", "-1.0"),
    "schedule that can not step": (
        {"model__schedule": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 0}}},
        "model.schedule.step_size",
        "must not be 0",
    ),
    "rate that would be negative": (
        {"model__schedule": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": -1}}},
        "model.schedule: ",
        "would be -0.002",
    ),
    "settings of torch's that exclude each other": (
        {"model__optimizer__init_args__foreach": True},
        "model.optimizer.fused",
        "`fused` and `foreach`",
    ),
    "one of two arguments of a name": (
        {"trainer__callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "mode": "less"}}]},
        "trainer.callbacks[0].mode",
        "min, max, got less",
    ),
    "nothing to train": (
        {"trainer__max_epochs": 0, "trainer__fast_dev_run": False},
        "trainer.max_epochs",
        "at least 1",
    ),
    "too large a seed": ({"seed_everything": 2**40}, "seed_everything", "from 0 to 4294967295"),
    "data of a function's model": (
        {"model__backbone": "torchvision.models.resnet18", "data__init_args__batch_size": 0},
        "data.batch_size",
        "at least 1, not 0",
    ),
    "batch larger than the data": ({"data__init_args__batch_size": 5000}, "data.batch_size", "1295 images"),
}


@pytest.mark.parametrize("case", IN_FILES)
def test_what_is_wrong_in_a_file(case: str, lightning, tmp_path: Path) -> None:
    changes, key, hint = IN_FILES[case]
    done = lightning("fit", "--config", changed(tmp_path, **changes))
    assert done.status == 2
    assert len(done.err.splitlines()) <= 10
    for words in ("mine.yaml", key, hint):
        assert words in done.err
    assert not (tmp_path / "runs").exists()


def test_the_file_at_fault_is_named(lightning, tmp_path: Path) -> None:
    for name, text, words in (
        ("typed.yaml", "trainer: {max_epochs: [1]}", "trainer.max_epochs: expected a whole number"),
        ("ranged.yaml", "data: {init_args: {val_share: 2}}", "data.val_share: must be below 1, not 2"),
        ("misspelt.yaml", "model: {optimizer: {init_args: {momentun: 1}}}", "model.optimizer.momentun: AdamW takes no"),
        ("empty.yaml", "# to be written", "is empty"),
        ("linked.yaml", "data: {seed: 3}", "data.seed can't be given; it is taken from seed_everything"),
    ):
        (tmp_path / name).write_text(text)
        done = lightning("fit", "--config", CONFIG, "--config", name)
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert done.err.startswith(f"lightning fit: {name}")
        assert words in done.err
    assert not (tmp_path / "runs").exists()


ON_THE_LINE = {
    "abbreviated option": (["--trainer.max_epoch", "3"], "trainer.max_epoch", "did you mean trainer.max_epochs?"),
    "misspelt option": (["--model.optimiser", "SGD"], "model.optimiser", "did you mean model.optimizer?"),
    "unknown class": (["--model.optimizer", "Adamm"], "model.optimizer", "did you mean Adam?"),
    "unknown data": (["--data", "Digit"], "data", "did you mean Digits?"),
    "wrong type": (["--model.optimizer.lr", "fast"], "model.optimizer.lr", "expected a number, not 'fast'"),
    "wrong choice": (["--trainer.precision", "bf16-mixe"], "trainer.precision", "did you mean bf16-mixed?"),
    "no such device": (["--trainer.devices", "9x"], "trainer", "devices"),
    "random seed": (["--seed_everything", "true"], "seed_everything", "whole number"),
    "linked value": (["--model.num_classes", "5"], "model.num_classes", "data.num_classes"),
    "linked seed": (["--data.seed=5"], "data.seed", "seed_everything"),
    "linked argument": (["--model.backbone.num_classes", "5"], "model.backbone.num_classes", "data.num_classes"),
    "missing argument": (["--data", "ImageFolder"], "data.root", "must be given"),
    "one word too many": (["extra"], "extra", ""),
    "configuration without its option": (["mine.yaml"], "mine.yaml", "given by --config mine.yaml"),
    "checkpoint without its option": (["run/last.ckpt"], "last.ckpt", "given by --ckpt_path run/last.ckpt"),
    "misspelt callback": (["--trainer.callbacks", "EarlyStoping"], "trainer.callbacks", "did you mean EarlyStopping?"),
    "misspelt logger": (["--trainer.logger", "WandbLoger"], "trainer.logger", "did you mean WandbLogger?"),
    "misspelt plugin": (["--trainer.plugins", "MixedPrecisio"], "trainer.plugins", "did you mean MixedPrecision?"),
    "value out of range for a class": (
        ["--trainer.callbacks", "Freeze", "--trainer.callbacks.epochs=-1"],
        "fit: trainer.callbacks.epochs: ",
        "must be at least 0, not -1",
    ),
    "misspelt strategy": (["--trainer.strategy", "DDPStrateg"], "trainer.strategy", "did you mean DDPStrategy?"),
    "name with a slash": (["--experiment", "a/b"], "experiment", "without slashes"),
    "name with a backslash": (["--experiment", "a\\b"], "experiment", "without slashes"),
    "name above": (["--experiment", ".."], "experiment", "a dot at its start"),
    "hidden name": (["--experiment=.a"], "experiment", "a dot at its start"),
    "no name": (["--experiment="], "experiment", "must be a name"),
    "name with a control character": (["--experiment", "a\nb"], "experiment", "control characters"),
}


@pytest.mark.parametrize("case", ON_THE_LINE)
def test_what_is_wrong_on_the_command_line(case: str, lightning, tmp_path: Path) -> None:
    arguments, key, hint = ON_THE_LINE[case]
    done = lightning("fit", "--config", CONFIG, *arguments)
    assert done.status == 2
    assert len(done.err.splitlines()) <= 10
    for words in (key, hint):
        assert words in done.err
    assert "digits.yaml" not in done.err  # the file is not at fault
    assert not (tmp_path / "runs").exists()


NETS = """
from torch import nn

class Grow(nn.Module):
    def __init__(self, num_classes: int, words: str = "strategy 'grow' is not known here", width: int = 8) -> None:
        super().__init__()
        raise ValueError(words)

def net(num_classes: int, width: int = 8) -> nn.Module:
    raise ValueError("optimizer, lr and batch_size: none of them is at fault")

def untold(width=8):
    return nn.Linear(64, width)

def wrong(num_classes: int) -> int:
    return num_classes

class Lazy(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(num_classes)

def needs(num_classes: int) -> nn.Module:
    import nothing_of_this_name
"""


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (["mynet.Grow"], "model.backbone: strategy 'grow' is not known here"),
        (
            ["mynet.Grow", "--model.backbone.words", "too few, check batch_size"],
            "model.backbone: too few, check batch_",
        ),
        (["mynet.Grow", "--model.backbone.words", "width must be odd"], "model.backbone.width: width must be odd"),
        (["mynet.net"], "model.backbone: optimizer, lr and batch_size: none of them is at fault"),
        (
            ["mynet.untold"],
            "model.backbone: mynet.untold has to say what it returns: def untold(num_classes: int) ->",
        ),
        (["mynet.wrong"], "model.backbone: mynet.wrong does not return nn.Module"),
        (["mynet.Lazy"], "UninitializedParameter` objects.\n"),  # and not "When using …"
        (["mynett.Grow"], "model.backbone: there is no module mynett; did you mean mynet?"),
        (["broken.Net"], "model.backbone: broken.Net imports nothing_of_this_name, which is not installed"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_an_error_of_your_network_blames_nothing_else(
    backbone: list[str], words: str, lightning, tmp_path: Path
) -> None:
    (tmp_path / "mynet.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    done = lightning("fit", "--config", CONFIG, "--model.backbone", *backbone)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert words in done.err
    assert "digits.yaml" not in done.err
    assert not (tmp_path / "runs").exists()


def test_the_optimizer_schedule_or_trainer_at_fault_is_named(lightning, tmp_path: Path) -> None:
    for changes, words in (
        ({"model__optimizer__init_args__weight_decay": -1.0}, "model.optimizer.weight_decay: Invalid weight_decay"),
        ({"model__optimizer__init_args__betas": [2.0, 0.9]}, "model.optimizer: Invalid beta parameter"),
        ({"model__schedule__init_args__warmup": 2}, "model.schedule.warmup: "),
        ({"trainer__accelerator": "gpu"}, "trainer.accelerator: "),
        ({"trainer__barebones": True, "trainer__fast_dev_run": False}, "trainer.barebones: "),
        ({"model__mixup": -1.0}, "model.mixup: must be at least 0, not -1"),
    ):
        if "trainer__accelerator" in changes and torch.cuda.is_available():
            continue
        done = lightning("fit", "--config", changed(tmp_path, **changes))
        assert done.status == 2
        assert f"mine.yaml: {words}" in done.err.splitlines()[-1]


@pytest.mark.parametrize("name", ["class_names", "mean", "std", "input_size"])
def test_a_source_that_does_not_describe_its_images_is_named(name: str, lightning, tmp_path: Path) -> None:
    (tmp_path / "mydata.py").write_text(
        "from resnet18 import Digits\n"
        "from resnet18 import ImageDataModule\n"
        "class Mine(ImageDataModule):\n"
        "    class_names, mean, std, input_size = tuple('0123456789'), [0.3], [0.4], (1, 8, 8)\n"
        f"    del {name}\n"
        "    load = Digits.load\n"
    )
    done = lightning("fit", "--config", CONFIG, "--data", "mydata.Mine", "--run_dir", "run")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert f"data: mydata.Mine has no {name}; a source has, for example: {name} = " in done.err
    assert not (tmp_path / "run").exists()


def test_advice_can_be_pasted_where_a_path_has_spaces(lightning, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "a run").symlink_to(trained)
    (tmp_path / "a b.yaml").write_text("trainer: {max_epochs: 1}\n")
    assert "given by --config 'a b.yaml'" in lightning("fit", "a b.yaml").err
    assert "given by --ckpt_path 'a run'" in lightning("fit", "--config", CONFIG, "a run").err
    done = lightning("fit", "--config", CONFIG, "--run_dir", "a run")
    assert "--ckpt_path 'a run' resumes the run in it" in done.err


def test_a_configuration_that_is_missing_broken_or_no_mapping(lightning, tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("model:\n\tbackbone: x\n")
    done = lightning("fit", "--config", "digit.yaml")
    assert (done.status, done.err) == (2, "lightning fit: there is no digit.yaml; did you mean digits.yaml?\n")
    done = lightning("fit", "--config", "digits.yaml")
    assert done.status == 2
    assert "digits.yaml, line 2: not valid YAML" in done.err
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    done = lightning("fit", "--config", "list.yaml")
    assert done.status == 2
    assert "list.yaml should hold keys and values" in done.err
    done = lightning("fit")
    assert done.status == 2
    assert "model.backbone, model.optimizer, data must be given" in done.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("callable_path", ["os.system", "torch.hub.set_dir", "shutil.rmtree", "builtins.exec"])
@pytest.mark.parametrize("key", ["model__optimizer", "model__schedule", "model__backbone"])
def test_foreign_code_in_a_configuration_is_not_called(key: str, callable_path: str, lightning, tmp_path: Path) -> None:
    arguments = {"os.system": {"command": "touch touched"}, "torch.hub.set_dir": {"d": "touched"}}.get(
        callable_path, {}
    )
    hub = torch.hub.get_dir()
    done = lightning(
        "fit", "--config", changed(tmp_path, **{key: {"class_path": callable_path, "init_args": arguments}})
    )
    assert done.status == 2
    assert len(done.err.splitlines()) <= 10
    assert key.replace("__", ".") in done.err
    assert not (tmp_path / "touched").exists()
    assert torch.hub.get_dir() == hub
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_not_scored(command: str, lightning) -> None:
    done = lightning(command, "--config", CONFIG)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert f"lightning {command} --ckpt_path" in done.err


def test_missing_and_broken_checkpoints_are_named(lightning, tmp_path: Path, trained: Path) -> None:
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pth")
    (tmp_path / "empty").mkdir()
    words = {
        "nowhere.ckpt": "there is no checkpoint or run nowhere.ckpt",
        "cutt.ckpt": "did you mean cut.ckpt?",
        "cut.ckpt": "cut.ckpt is cut off",
        "text.ckpt": "text.ckpt is",
        "list.ckpt": "holds a list",
        "plain.pth": "lightning fit --init_from",
        "empty": "empty holds no checkpoints/best.ckpt",
    }
    for name, message in words.items():
        done = lightning("test", "--ckpt_path", name)
        assert done.status == 1, name
        assert len(done.err.splitlines()) <= 10
        assert message in done.err


def test_a_checkpoint_that_carries_pickled_code_is_refused_by_name(lightning, tmp_path: Path, trained: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, "extra": Touch()}, tmp_path / "evil.ckpt")
    assert zipfile.is_zipfile(tmp_path / "evil.ckpt")
    for command in ("test", "fit"):
        done = lightning(command, "--ckpt_path", "evil.ckpt")
        assert (done.status, len(done.err.splitlines())) == (1, 1)
        assert "evil.ckpt carries pickled code" in done.err
        assert "mkdir" in done.err
    done = lightning("fit", "--config", CONFIG, "--init_from", "evil.ckpt")
    assert done.status == 1
    assert not (tmp_path / "touched").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("callable_path", ["os.system", "torch.hub.set_dir"])
def test_a_checkpoint_that_names_foreign_code_is_refused(
    callable_path: str, lightning, tmp_path: Path, trained: Path
) -> None:
    from resnet18 import Classifier, load_run
    from resnet18.errors import RunError

    foreign = {"class_path": callable_path, "init_args": {"command": "touch touched"}}
    if callable_path == "torch.hub.set_dir":
        foreign["init_args"] = {"d": "touched"}
    hub = torch.hub.get_dir()
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    for key in ("optimizer", "backbone"):
        evil = {
            **checkpoint,
            "hyper_parameters": {
                **checkpoint["hyper_parameters"],
                key: foreign,
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            },
            "config": {**checkpoint["config"], "model": {**checkpoint["config"]["model"], key: foreign}},
        }
        torch.save(evil, tmp_path / "evil.ckpt")
        done = lightning("test", "--ckpt_path", "evil.ckpt")
        assert done.status != 0
        assert len(done.err.splitlines()) <= 10
        assert callable_path in done.err
        for load in (lambda path: load_run(path).model, Classifier.load_from_checkpoint):
            with pytest.raises(RunError, match=callable_path):
                load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "touched").exists()
    assert torch.hub.get_dir() == hub
