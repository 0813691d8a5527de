"""What the Trainer costs a step, beside the identical bare PyTorch loop.

The same network, batches, optimizer, schedule and precision are trained three ways, in turns, in one process: by a bare
loop; by ``lightning fit`` as shipped (W&B offline, metrics.csv, the live bar on a terminal, checkpoints); and with all
of these off. The network is one convolution, so that a step is little but the host's time; the difference is what the
Trainer adds, to a step of any network.

    python benchmarks/trainer_overhead.py        # about 2 minutes; writes benchmarks/results/trainer_overhead.json
"""

import contextlib
import io
import json
import os
import pty
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "trainer_overhead.json"
WARMUP, STEPS, ROUNDS = 100, 1000, 15
SETTINGS = [
    *("--config", str(ROOT / "configs" / "digits.yaml")),
    *("--model.backbone", "trainer_overhead.Convolution", "--data.batch_size", "8"),
    *("--trainer.limit_val_batches", "0", "--trainer.max_epochs", "-1", "--trainer.max_steps", str(WARMUP + STEPS + 1)),
]
LEAN = ["--trainer.logger=false", "--trainer.log_every_n_steps=0", "--trainer.enable_progress_bar=false"]
LEAN += ["--trainer.enable_checkpointing=false"]


class Convolution(nn.Module):
    """3×3 convolution, batch norm, pool and classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Clock:
    """Milliseconds a step between the end of the warm-up and the last step, by the wall and by this process's CPU."""

    def __init__(self) -> None:
        self.steps = 0
        self.began = (0.0, 0.0)
        self.ms: tuple[float, float] | None = None

    def step(self) -> None:
        if self.steps == WARMUP:
            self.began = (time.perf_counter(), time.process_time())
        if self.steps == WARMUP + STEPS:
            now = (time.perf_counter(), time.process_time())
            self.ms = (1000 * (now[0] - self.began[0]) / STEPS, 1000 * (now[1] - self.began[1]) / STEPS)
        self.steps += 1


def bare() -> tuple[float, float]:
    """The loop that one would write by hand."""
    import torch

    from resnet18.cli.fitting import Fit

    program = Fit("fit", [*SETTINGS, *LEAN])
    model, data = program.model.train(), program.datamodule
    data.trainer = None
    data.setup("fit")
    loader = data.train_dataloader()
    optimizer = model.make_optimizer()
    schedule = model.make_schedule(optimizer, WARMUP + STEPS + 1)
    assert schedule is not None
    clock = Clock()
    while clock.ms is None:
        for images, labels in loader:
            clock.step()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return clock.ms


def trainer(*options: str) -> tuple[float, float]:
    """The same by the program itself."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    from resnet18.cli.fitting import Fit

    clock = Clock()

    class Tick(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            clock.step()

    program = Fit("fit", [*SETTINGS, *options])
    program.trainer.callbacks.insert(0, Tick())  # type: ignore[attr-defined]
    program.start()
    assert clock.ms is not None
    return clock.ms


def measure() -> dict[str, Any]:
    import torch

    from resnet18.cli.notices import filter_notices
    from resnet18.storage.provenance import measured_with, provenance

    filter_notices()
    torch.set_num_threads(1)
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "bare": bare,
        "shipped": trainer,
        "lean": lambda: trainer(*LEAN),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for _ in range(ROUNDS):
            for name, way in ways.items():
                times[name].append(way())
        os.chdir(ROOT)
    result: dict[str, Any] = {"command": "python benchmarks/trainer_overhead.py", "steps": STEPS, "rounds": ROUNDS}
    for clock, which in (("wall", 0), ("cpu", 1)):
        base = [time[which] for time in times["bare"]]
        result[f"bare_ms_{clock}"] = round(statistics.median(base), 3)
        for name in ("shipped", "lean"):
            extra = [way[which] - alone for way, alone in zip(times[name], base, strict=True)]
            result[f"{name}_extra_ms_{clock}"] = round(statistics.median(extra), 3)
            result[f"{name}_extra_ms_{clock}_rounds"] = [round(value, 3) for value in extra]
    result |= measured_with(provenance(seed=1, split_hash=""))
    return result


def main() -> None:
    # On a terminal of its own, so that the bar is drawn, and drawn to nobody.
    child, terminal = pty.fork()
    if child == 0:
        result = measure()
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        os._exit(0)
    shown = io.BytesIO()
    with contextlib.suppress(OSError):  # Linux: reading a terminal whose other side is closed
        while chunk := os.read(terminal, 65536):
            shown.write(chunk)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(shown.getvalue().decode(errors="replace")[-4000:])
    for name, value in json.loads(RESULT.read_text()).items():
        if not isinstance(value, dict):
            print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
