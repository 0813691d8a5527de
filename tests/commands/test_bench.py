"""``lightning bench``: the same work three ways, what it prints and writes, and that it leaves nothing behind."""

import ast
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, ROOT, SMALL, start
from rich.console import Console

from resnet18.commands.bench import BARE, FEED, FIT, Bench, Row, limited_by, row_of
from resnet18.commands.measure import Clock

BENCH = ("bench", "--config", CONFIG, *SMALL, "--steps", "2")


def consistent(row: dict[str, Any], batch_size: int) -> None:
    assert row["images_per_s"] * row["ms_a_step"] / 1000 == pytest.approx(batch_size)
    assert row["ms_a_step"] > 0
    assert row["ms_a_step"] in row["rounds_ms_a_step"]
    assert row["host_ms_a_step"] is None
    assert row["first_step_s"] > 0


def test_measures_prints_and_writes(lightning, tmp_path: Path) -> None:
    done = lightning(*BENCH, "--json", "bench.json")
    assert done.status == 0, done.err
    result = json.loads(Path("bench.json").read_text())
    assert [row["name"] for row in result["rows"]] == [FEED, BARE, FIT]
    for row in result["rows"]:
        consistent(row, 64)
        assert re.search(rf"{row['name']} +{row['images_per_s']:,.0f} +{row['ms_a_step']:,.2f}", done.out)
    feed, bare, fit = result["rows"]
    assert feed["ms_a_step"] < bare["ms_a_step"]
    extra = [ours - alone for ours, alone in zip(fit["rounds_ms_a_step"], bare["rounds_ms_a_step"], strict=True)]
    assert result["trainer_extra_ms_a_step"] == sorted(extra)[1]
    assert result["limit"] == done.out.splitlines()[-1]
    assert result["command"].startswith("lightning bench --config")
    assert result["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert result["hardware"]["cores"] >= 1
    tables = [line for line in done.out.splitlines() if "  " in line]
    assert max(map(len, tables)) <= 80  # not on a terminal
    assert "arning" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def prepared(directory: Path, *options: str) -> Bench:
    bench = Bench("bench", ["--config", str(CONFIG), *SMALL, *options])
    bench.directory = directory
    bench.console = Console()
    bench.set_up()
    return bench


CLIP = ("--trainer.gradient_clip_val", "0.1")
EPOCHS = ("--model.schedule", "StepLR", "--model.schedule.step_size", "1", "--model.schedule.gamma", "0.5")


@pytest.mark.parametrize(
    "options",
    [
        (),  # 22 steps: over the end of an epoch of 20, with a schedule by steps
        EPOCHS,
        (*CLIP, "--trainer.accumulate_grad_batches", "3"),  # 20 is no multiple of it
        (*CLIP, "--trainer.gradient_clip_algorithm", "value", "--trainer.limit_train_batches", "7"),
        ("--trainer.precision", "bf16-mixed", "--trainer.devices", "2"),
    ],
    ids=["shipped", "schedule by epochs", "clip and accumulate", "clip by value", "bf16-mixed"],
)
def test_the_bare_loop_trains_what_the_trainer_trains(tmp_path: Path, options: tuple[str, ...]) -> None:
    bench = prepared(tmp_path, "--steps", "60", *options)
    trained = []
    for name in (BARE, FIT):
        bench.measure_row(name)
        trained.append({key: value.clone() for key, value in bench.model.state_dict().items()})
    bare, fit = trained
    assert all(torch.equal(value, fit[name]) for name, value in bare.items())
    assert not torch.equal(bare["backbone.fc.weight"], bench.weights["backbone.fc.weight"])


def test_the_trainer_runs_with_what_fit_gives_it(tmp_path: Path) -> None:
    bench = prepared(tmp_path, "--steps", "2", "--trainer.log_every_n_steps", "1")
    bench.measure_row(FIT)
    names = {type(callback).__name__ for callback in bench.datamodule.trainer.callbacks}
    assert {"StepSeeding", "TrainingLog", "FiniteLoss", "LastCheckpoint", "SavingStop"} <= names  # nothing validates
    assert (tmp_path / "metrics.csv").exists()
    assert not list(tmp_path.glob("wandb"))


OWN = """
import torch
from torch import nn
from resnet18 import ImageDataModule, ImageTensors

class Dots(ImageDataModule):
    class_names = ("left", "right")
    mean, std, input_size = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (3, 6, 10)

    def load(self, part):
        return ImageTensors(torch.randint(0, 256, (40, 6, 10, 3), dtype=torch.uint8), torch.arange(40) % 2)

class MyNet(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(self.pool(x).flatten(1))
"""


def test_a_custom_data_source_and_network(lightning) -> None:
    Path("mynet.py").write_text(OWN)
    plateau = ("--model.schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau", "--trainer.callbacks", "EarlyStopping")
    options = ("--model.backbone", "mynet.MyNet", "--model.optimizer", "SGD", "--data", "mynet.Dots")
    watching = ("--trainer.callbacks.monitor", "val/loss", "--data.batch_size", "36")  # one batch an epoch
    done = lightning(
        "bench", *options, *plateau, *watching, "--steps", 2, "--json", "r.json", "--trainer.precision", "32-true"
    )
    assert done.status == 0, done.err
    assert "MyNet, 8 parameters, on cpu, 32-true; batches of 36" in done.out
    for row in json.loads(Path("r.json").read_text())["rows"]:
        consistent(row, 36)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--steps", "0"), 2, "steps: must be at least 1, not 0"),
        (("--step", "3"), 2, "there is no option step; did you mean steps?"),
        (("--data.batch_size", "5000"), 2, "batch_size is 5000"),
        (("--json", "nowhere/bench.json"), 1, "json: nowhere/bench.json can't be written"),
        (("--json", "."), 1, "json: . can't be written"),
    ],
)
def test_errors_are_found_before_anything_is_measured(
    lightning, tmp_path: Path, options: tuple[str, ...], status: int, message: str
) -> None:
    done = lightning("bench", "--config", CONFIG, *SMALL, *options)
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    places = tmp_path / "work", tmp_path / "temporary"
    for place in places:
        place.mkdir()
    process = start([*BENCH[:-1], "100000"], places[0], TMPDIR=str(places[1]))
    assert process.stdout is not None
    assert "parameters" in process.stdout.readline()
    time.sleep(1)  # into the first of the loops
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped by SIGINT; nothing was saved" in err
    assert "Traceback" not in err
    assert [list(place.iterdir()) for place in places] == [[], []]


@pytest.mark.parametrize(
    ("feed", "host", "fit", "expected"),
    [
        (90.0, [20.0], 100.0, "feed-bound: the feed alone takes 90.0 of the 100.0 ms of a step"),
        (90.0, [], 100.0, "feed-bound"),
        (1.0, [85.0], 100.0, "host-bound: to issue a step takes Python 85.0 of the 100.0 ms of a step"),
        (1.0, [], 100.0, "host-bound: the Trainer itself takes 50.0 of the 100.0 ms of a step"),
        (1.0, [20.0], 52.0, "device-bound: the feed alone takes 1.0 of the 52.0 ms of a step, to issue one 20.0"),
        (1.0, [], 52.0, "device-bound: the feed alone takes 1.0 of the 52.0 ms of a step; the rest is"),
    ],
)
def test_what_limits_a_configuration(feed: float, host: list[float], fit: float, expected: str) -> None:
    def row(name: str, ms: float, host: list[float]) -> Row:
        clock = Clock(torch.device("cpu"), steps=1)
        clock.step_ms, clock.host_ms = ms, host
        return row_of(name, 64, [clock])

    assert limited_by(row(FEED, feed, []), row(BARE, 50.0, []), row(FIT, fit, host)).startswith(expected)


def test_no_module_needs_what_windows_lacks_to_be_imported() -> None:
    for path in (ROOT / "resnet18").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"fcntl", "grp", "posix", "pwd", "resource", "termios"} & set(names), path
