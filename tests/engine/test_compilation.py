"""``compile``, with the real compiler or with one that counts graphs."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import start
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from resnet18 import Classifier
from resnet18.errors import RunError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\)"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Keeps tests from sharing compiled graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


class Backend:
    """Counts the graphs, which run as they are."""

    def __init__(self) -> None:
        self.graphs: list[tuple[int, ...]] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs.append(next(tuple(one.shape) for one in inputs if one.ndim == 4 and one.shape[2:] == (8, 8)))
        return graph.forward


def use(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 3))


def make(backbone: nn.Module | None = None, **settings: Any) -> Classifier:
    backbone = backbone or network()
    return Classifier(backbone, partial(SGD, lr=0.1, momentum=0.9), num_classes=3, mean=[0.3], std=[0.4], **settings)


def loaders(training: int = 6, evaluation: int = 10) -> tuple[DataLoader, DataLoader]:
    numbers = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(0, 3, (24,), generator=numbers)
    data = TensorDataset(images, labels, torch.arange(24))
    return DataLoader(TensorDataset(images, labels), training), DataLoader(data, evaluation)


def trainer(**settings: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "max_epochs": 2}
    return Trainer(accelerator="cpu", **{**quiet, **settings})


def test_a_smaller_last_batch_of_an_evaluation_gets_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    use(backend, monkeypatch)
    classifier = make(compile=True)
    runner = trainer(num_sanity_val_steps=0)
    runner.fit(classifier, *loaders())  # 24 images: four batches of 6 to train, 10 + 10 + 4 to validate, twice
    assert backend.graphs == [(6, 1, 8, 8), (10, 1, 8, 8)]
    runner.test(classifier, loaders()[1], verbose=False)
    runner.predict(classifier, loaders()[1])
    whole = [(6, 1, 8, 8), (10, 1, 8, 8), (10, 1, 8, 8)]  # the last in inference mode, which fitting does without
    assert backend.graphs == whole
    plain = make()
    plain.load_state_dict(classifier.state_dict())
    for images, *_ in loaders()[1]:
        with torch.inference_mode():
            torch.testing.assert_close(classifier.eval()(images), plain.eval()(images))
    assert backend.graphs == whole


def test_a_single_evaluation_batch_gets_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    use(backend, monkeypatch)
    trainer(num_sanity_val_steps=0).fit(make(compile=True), *loaders(evaluation=50))
    assert backend.graphs == [(6, 1, 8, 8), (24, 1, 8, 8)]


def test_mixing_does_not_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    use(backend, monkeypatch)
    trainer(num_sanity_val_steps=0).fit(make(compile=True, mixup=1.0, cutmix=1.0), *loaders())
    assert len(backend.graphs) == 2


def test_a_compiled_run_trains_and_validates_as_an_uncompiled_one() -> None:
    runs = []
    for compiling in (False, True):
        # The sanity check evaluates before anything is trained.
        classifier, runner = make(compile=compiling), trainer(precision="bf16-mixed", num_sanity_val_steps=1)
        runner.fit(classifier, *loaders())
        assert (classifier.backbone._compiled_call_impl is not None) == compiling
        runs.append((runner.callback_metrics["val/loss"].item(), classifier.state_dict()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    (plain_loss, plain), (loss, compiled) = runs
    assert loss == pytest.approx(plain_loss, rel=0.02)
    assert list(compiled) == list(plain)  # plain names
    assert not torch.equal(compiled["backbone.0.weight"], make().backbone.get_parameter("0.weight"))


@pytest.mark.parametrize("compile", [False, True])
def test_a_checkpoint_resumes_compiled_or_not(compile: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    use(backend, monkeypatch)
    first = make(compile=not compile)
    runner = trainer(max_epochs=1)
    runner.fit(first, *loaders())
    path = tmp_path / "model.ckpt"
    runner.save_checkpoint(path)
    backend.graphs.clear()
    back = Classifier.load_from_checkpoint(
        path, backbone=network(), optimizer=partial(SGD, lr=0.1, momentum=0.9), compile=compile
    )
    state = back.state_dict()
    assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())
    resumed = trainer()
    resumed.fit(back, *loaders(), ckpt_path=path)
    assert resumed.global_step == 8
    assert len(backend.graphs) == (2 if compile else 0)


# Where there is no compiler


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr("resnet18.engine.compilation.rank_zero_info", messages.append)
    return messages


def refuse(*_: Any) -> Any:
    raise RuntimeError("out of registers")


def no_compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    raise RuntimeError("out of registers")


no_backward_compiler = aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=refuse)


@pytest.mark.parametrize("backend", [no_compiler, no_backward_compiler])
def test_a_failing_compiler_is_reported_once_and_training_continues_uncompiled(
    backend: Any, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    plain = make()
    trainer().fit(plain, *loaders())
    use(backend, monkeypatch)
    classifier = make(compile=True)
    trainer(num_sanity_val_steps=0).fit(classifier, *loaders())
    assert len(messages) == 1
    assert "out of registers; the training continues uncompiled." in messages[0]
    assert "\n" not in messages[0]
    state = classifier.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


class Wrong(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(7, 3)

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "raised":
            raise RunError("an error of the network's own")
        return self.fc(images.flatten(1))  # 64 features


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("raised", RunError, "an error of the network's own"),
        ("shapes", RuntimeError, r"^mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_the_networks_own_error_is_raised_unchanged(
    kind: str, error: type[Exception], message: str, messages: list[str]
) -> None:
    with pytest.raises(error, match=message):
        trainer(num_sanity_val_steps=0).fit(make(Wrong(kind), compile=True), *loaders())
    assert messages == []


def test_without_a_cpp_compiler_the_program_trains_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))\n"
    )
    process = start(
        [
            *("fit", "--model.backbone", "mynet.Net", "--model.optimizer", "SGD", "--data", "Digits"),
            *("--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
            *("--model.compile", "true", "--run_dir", "run"),
        ],
        tmp_path,
        CXX=str(tmp_path / "missing"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "best    val/top1" in out
    (line,) = [line for line in err.splitlines() if line.startswith("compile: ")]
    assert "No working C++ compiler found" in line
    assert line.endswith("the training continues uncompiled.")
    assert "Traceback" not in err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert "backbone.2.weight" in state
