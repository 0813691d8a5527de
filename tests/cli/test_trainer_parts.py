"""The Trainer's options and every callback of Lightning, through the real program: each works, or is refused.

What is refused is refused in a sentence, before anything is written.
"""

import copy
import csv
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIG, DROPOUT_NET, DROPOUT_RUN, SMALL, Done
from killed_runs import differences
from lightning.pytorch import Callback, Trainer, callbacks
from lightning.pytorch.plugins import MixedPrecision

from resnet18.cli.trainer_parts import REFUSED, check_clipping, refuse_callbacks
from resnet18.errors import UsageError
from resnet18.storage.checkpoint_io import BackgroundCheckpointIO
from resnet18.storage.checkpoints import read_checkpoint

TINY = (
    *("fit", "--config", CONFIG, *SMALL, "--data.eval_batch_size", "64", "--run_dir", "run"),
    *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1", "--trainer.log_every_n_steps", "1", "--trainer.logger", "false"),
)
SHIPPED = sorted(name for name, kind in inspect.getmembers(callbacks, inspect.isclass) if issubclass(kind, Callback))
CALLBACKS: dict[str, dict[str, object]] = {
    "DeviceStatsMonitor": {},
    "EMAWeightAveraging": {"decay": 0.5},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": "{0: 1, 1: 3}"},
    "LearningRateFinder": {"num_training_steps": 20},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"filename": "mine"},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "ModelSummary": {},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "SpikeDetection": {},
    "TQDMProgressBar": {},
    "Timer": {"duration": "00:00:10:00"},
    "WeightAveraging": {},
}
"""Those that work, each with an argument that it needs, or that shows more than its default."""


def rows(run: Path, column: str) -> list[str]:
    return [row[column] for row in csv.DictReader((run / "metrics.csv").open()) if row.get(column)]


def columns(run: Path) -> list[str]:
    return (run / "metrics.csv").read_text().splitlines()[0].split(",")


def logs_the_device(done, run: Path) -> None:
    assert any("cpu_percent" in name for name in columns(run))


def saves_the_average(done, run: Path) -> None:
    saved, best = (read_checkpoint(run / "checkpoints" / f"{name}.ckpt") for name in ("last", "best"))
    weight = "backbone.fc.weight"
    assert not torch.equal(saved["state_dict"][weight], saved["current_model_state"][weight])
    assert not {"current_model_state", "averaging_state"} & best.keys()
    if best["global_step"] == saved["global_step"]:
        assert torch.equal(best["state_dict"][weight], saved["state_dict"][weight])


def accumulates(done, run: Path) -> None:
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert float(rows(run, "lr")[-1]) < 1e-3  # the schedule knew, and came down


def logs_rates(done, run: Path) -> None:
    assert {"lr-AdamW/pg1", "lr-AdamW/pg2"} <= set(columns(run))


def prunes(done, run: Path) -> None:
    weights = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert not any(name.endswith("_mask") for name in weights)
    pruned = torch.cat([one.flatten() for name, one in weights.items() if name.endswith("weight")])
    assert 0.7 < float((pruned == 0).float().mean()) < 0.8  # half, and half of the rest
    written = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert written[0]["init_args"]["pruning_fn"] == "l1_unstructured"


def sums_up(done, run: Path) -> None:
    assert "Trainable params" in done.out


WORK = {
    "DeviceStatsMonitor": logs_the_device,
    "EMAWeightAveraging": saves_the_average,
    "GradientAccumulationScheduler": accumulates,
    "LearningRateMonitor": logs_rates,
    "ModelPruning": prunes,
    "RichModelSummary": sums_up,
}
"""What shows that some of them did it."""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_callback_works_or_is_refused_in_a_sentence(name: str, lightning, tmp_path: Path) -> None:
    assert (name in CALLBACKS) != (name in REFUSED), "a callback that nobody has tried"
    if name in REFUSED:
        done = lightning(*TINY, f"--trainer.callbacks+={name}")
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert f"trainer.callbacks: {name} can't be used: {REFUSED[name]}" in done.err
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": name}]}}))
        done = lightning(*TINY, "--config", tmp_path / "mine.yaml")
        assert f"mine.yaml: trainer.callbacks: {name} can't be used: " in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
        return
    argument = [part for key, value in CALLBACKS[name].items() for part in (f"--trainer.callbacks.{key}", value)]
    more = ("--model.channels_last", "false") if name == "ModelPruning" else ()
    done = lightning(*TINY, "--trainer.callbacks", name, *argument, *more)
    assert done.status == 0, done.err
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "provenance.json", "metrics.csv", "checkpoints"),
        *("status.json", "evaluation-val.json", "evaluation", "report.html"),
    }
    extra = {"mine.ckpt"} if name == "ModelCheckpoint" else set()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", *extra}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    if name in WORK:
        WORK[name](done, run)
    test = lightning("test", "--ckpt_path", "run")
    assert (test.status, "test/top1" in test.out) == (0, True), test.err
    resumed = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "3")
    if name == "ModelPruning":
        assert (resumed.status, "ModelPruning keeps no masks" in resumed.err) == (2, True)
    else:
        assert resumed.status == 0, resumed.err
        assert len(rows(run, "val/top1")) == 3


@pytest.mark.parametrize(
    ("option", "is_refused"),
    [
        ("Callback", True),
        ("lightning.pytorch.callbacks.Callback", True),
        ("[{class_path: Timer}, {class_path: lightning.pytorch.Callback}]", True),
        ("mynet.Callback", False),
        ("[{class_path: mynet.Own, init_args: {name: Callback}}]", False),
        ("[", False),
    ],
)
def test_a_callback_is_refused_however_it_is_named_and_your_own_never(option: str, is_refused: bool) -> None:
    refused = pytest.raises(UsageError, match="Callback can't be used") if is_refused else nullcontext()
    with refused:
        refuse_callbacks([], [option])


STOPPER = """
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Stop(Callback):
    # SIGTERM, once: after step `at`, or in the validation that follows it.
    def __init__(self, at: int, validating: bool = False) -> None:
        self.at, self.validating = at, validating
    def stop(self, trainer):
        if trainer.global_step == self.at and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)
    def on_train_batch_end(self, trainer, *args):
        if not self.validating: self.stop(trainer)
    def on_validation_batch_start(self, trainer, *args):
        if self.validating: self.stop(trainer)
"""


@pytest.mark.parametrize(
    ("callback", "at", "validating"),
    [
        ("{class_path: WeightAveraging}", 27, False),
        ("{class_path: EMAWeightAveraging, init_args: {decay: 0.9}}", 40, True),
        ("{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 1, 1: 2}}}", 24, False),
    ],
)
def test_a_run_with_it_is_resumed_exactly(callback: str, at: int, validating: bool, lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET + STOPPER)
    stop = f"{{class_path: mynet.Stop, init_args: {{at: {at}, validating: {validating}}}}}"
    run = (*DROPOUT_RUN, "--trainer.max_epochs", "3", "--trainer.callbacks", f"[{callback}, {stop}]", "--run_dir")
    (tmp_path / "stopped").touch()
    assert lightning(*run, "unbroken").status == 0
    (tmp_path / "stopped").unlink()
    done = lightning(*run, "run")
    assert (done.status, "stopped by SIGTERM" in done.err) == (143, True), done.err
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert differences(tmp_path / "unbroken", tmp_path / "run") == []


@pytest.mark.parametrize(
    "options",
    [
        ("EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"),
        ("ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured", "--model.channels_last", "false"),
    ],
)
def test_best_weights_are_those_that_were_validated(options: tuple[str, ...], lightning, tmp_path: Path) -> None:
    assert lightning(*TINY, "--trainer.callbacks", *options, "--trainer.limit_train_batches", "1.0").status == 0
    scored = [float(loss) for loss in rows(tmp_path / "run", "val/loss")]
    best = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    done = lightning("validate", "--ckpt_path", "run")
    assert f"val/loss {scored[best['epoch']]:.4f}" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("WeightAveraging", "--model.ema", "0.9"), "WeightAveraging and model.ema both change the weights"),
        (
            # A width that is channels-last on every CPU.
            ("ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured", "--model.backbone.width", "16"),
            "--model.channels_last false",
        ),
        (
            ("ModelCheckpoint", "--trainer.callbacks.save_last", "true"),
            "leave the run's own best.ckpt",
        ),
        (
            ("ModelCheckpoint", "--trainer.callbacks.filename", "best"),
            "leave the run's own best.ckpt",
        ),
    ],
)
def test_callbacks_that_spoil_a_run_are_refused(
    options: tuple[str, ...], words: str, lightning, tmp_path: Path
) -> None:
    done = lightning(*TINY, "--trainer.callbacks", *options)
    assert (done.status, words in done.err) == (2, True), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_spike_ends_the_run_in_a_sentence(lightning, tmp_path: Path) -> None:
    done = lightning(*TINY, "--trainer.callbacks", "SpikeDetection", "--trainer.callbacks.rtol", "1e-6")
    assert (done.status, done.err.splitlines()[-1]) == (1, "lightning fit: Training spike detected in batch 1")
    assert (tmp_path / "run" / "skip_batches.json").exists()


def test_copies_of_the_module_and_of_its_writer(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        "import copy, gc\n"
        "from lightning.pytorch import Callback, Trainer\n"
        "def trainers():\n"
        "    return sum(isinstance(one, Trainer) for one in gc.get_objects())\n"
        "class Copy(Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        before = trainers()\n"
        "        assert copy.deepcopy(module).backbone is not module.backbone\n"
        "        assert trainers() == before\n"
        "        copy.deepcopy(trainer.strategy.checkpoint_io)\n"
    )
    assert lightning(*TINY, "--trainer.callbacks", "mynet.Copy").status == 0
    writer = BackgroundCheckpointIO()
    writer.save_checkpoint({"number": 1}, tmp_path / "one.ckpt")
    copied = copy.deepcopy(writer)
    copied.save_checkpoint({"number": 2}, tmp_path / "two.ckpt")
    writer.teardown()
    copied.teardown()
    assert [read_checkpoint(tmp_path / f"{name}.ckpt")["number"] for name in ("one", "two")] == [1, 2]


def validates(times: int) -> Callable[[Done, Path], None]:
    def check(done: Done, run: Path) -> None:
        assert len(rows(run, "val/top1")) == times

    return check


def takes(steps: int) -> Callable[[Done, Path], None]:
    def check(done: Done, run: Path) -> None:
        assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == steps

    return check


def without_best(done: Done, run: Path) -> None:
    assert "best    none: nothing was validated, so last.ckpt is what is tested" in done.out
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert "monitored" not in done.err


def profiled(done: Done, run: Path) -> None:
    assert "profile run/fit-profile.txt" in done.out
    assert (run / "fit-profile.txt").stat().st_size > 1000
    assert max(map(len, (done.out + done.err).splitlines())) < 200


def says(words: str) -> Callable[[Done, Path], None]:
    def check(done: Done, run: Path) -> None:
        assert words in done.out + done.err

    return check


def leaves(*names: str) -> Callable[[Done, Path], None]:
    def check(done: Done, run: Path) -> None:
        for name in names:
            assert list(run.glob(name)), name

    return check


def nothing_kept(done: Done, run: Path) -> None:
    assert not run.exists()


FLAGS: dict[str, Any] = {
    "overfit_batches 2": takes(4),
    "limit_train_batches 1": takes(2),
    "limit_train_batches 0.1": takes(4),
    "limit_val_batches 0": without_best,
    "limit_val_batches 0.5": validates(2),
    "max_time 00:00:00:01 max_epochs 100000": says("stopped early by trainer.max_time: 0:00:01 of training"),
    "val_check_interval 0.34": validates(6),
    "val_check_interval 2": validates(2),
    "val_check_interval 4 check_val_every_n_epoch null": validates(1),
    "check_val_every_n_epoch 2": validates(1),
    "profiler simple": profiled,
    "profiler advanced": profiled,
    "profiler pytorch": profiled,
    "gradient_clip_val 0.5 gradient_clip_algorithm value": takes(6),
    "gradient_clip_val 0.5 precision bf16-mixed": takes(6),
    "accumulate_grad_batches 2": takes(4),
    "deterministic true benchmark false num_sanity_val_steps 1 reload_dataloaders_every_n_epochs 1": validates(2),
    "deterministic warn benchmark true enable_progress_bar false min_steps 4 max_time {minutes:5}": takes(6),
    "detect_anomaly true inference_mode false enable_model_summary true": says("Trainable params"),
    "fast_dev_run true": nothing_kept,
    "fast_dev_run 2 profiler simple": nothing_kept,
    "enable_checkpointing false": says("best    val/top1"),
    "max_steps 2": takes(2),
    "max_epochs -1 max_steps 4": takes(4),
    "plugins AsyncCheckpointIO": takes(6),
    "precision 64-true": takes(6),
    "precision bf16-true": takes(6),
    "precision 16-true": takes(6),
    "precision 16-mixed": takes(6),
    "strategy ddp": takes(6),
    "log_every_n_steps 0": takes(6),
    "logger CSVLogger logger.save_dir .": leaves("lightning_logs/version_0/metrics.csv", "metrics.csv"),
    "logger [WandbLogger,{class_path:CSVLogger,init_args:{save_dir:.}}]": leaves("wandb/*", "lightning_logs/*"),
}
REFUSED_FLAGS = {
    "overfit_batches 0.1": "trainer.overfit_batches: 0.1 of 3 val batches is less than one",
    "limit_train_batches 0": "trainer.limit_train_batches: must be at least 1 batch",
    "limit_train_batches 0.01": "trainer.limit_train_batches: 0.01 of 20 train batches is less than one",
    "limit_val_batches 0 callbacks EarlyStopping callbacks.monitor val/loss": "EarlyStopping has no val/loss to watch",
    "max_time 5": "Expected a string in the format DD:HH:MM:SS",
    "max_time 00:00:00:00": "trainer.max_time: must be above 0",
    "val_check_interval 300": "--trainer.check_val_every_n_epoch null",
    "val_check_interval 0": "trainer.val_check_interval: must be at least 1 batch",
    "profiler xla": "trainer.profiler: expected simple, advanced, pytorch",
    "gradient_clip_val 1 gradient_clip_algorithm nope": "Allowed algorithms: ['value', 'norm']",
    "barebones true": "lightning bench measures it",
    "default_root_dir here": "given as --run_dir",
    "strategy ddp_spawn": "trainer.strategy: ddp_spawn is for notebooks",
    "strategy ddp_notebook devices 2": "trainer.strategy: ddp_notebook is for notebooks",
    "precision transformer-engine": "it needs transformer_engine>=0.11.0, which is not installed",
    "accelerator tpu": "it needs torch_xla>=1.13, which is not installed",
    "logger TensorBoardLogger logger.save_dir .": "it needs tensorboard, which is not installed",
}


@pytest.fixture(autouse=True)
def _process_wide_flags() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)  # Lightning sets them for the process
    torch.backends.cudnn.benchmark = False


def run_with(flags: str, lightning: Callable[..., Done]) -> Done:
    words = flags.split()
    given = [word.replace(":", ": ") if word[0] in "[{" else word for word in words[1::2]]
    return lightning(
        *TINY, *(part for name, value in zip(words[::2], given, strict=True) for part in (f"--trainer.{name}", value))
    )


@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_works(flags: str, lightning, tmp_path: Path) -> None:
    done = run_with(flags, lightning)
    assert done.status == 0, done.err
    FLAGS[flags](done, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


@pytest.mark.parametrize("flags", REFUSED_FLAGS)
def test_a_flag_is_refused_in_a_sentence(flags: str, lightning, tmp_path: Path) -> None:
    done = run_with(flags, lightning)
    assert done.status == 2, done.err
    assert REFUSED_FLAGS[flags] in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_overfitting_shows_the_same_batch_in_every_epoch(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Watch(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, index):\n"
        "        with open('seen', 'a') as file: print(batch[1].tolist(), file=file)\n"
    )
    done = lightning(*TINY, "--trainer.overfit_batches", "1", "--trainer.callbacks", "mynet.Watch")
    assert done.status == 0, done.err
    first, second = (tmp_path / "seen").read_text().splitlines()
    assert first == second


@pytest.mark.parametrize(("command", "flag"), [("test", "limit_test_batches"), ("validate", "limit_val_batches")])
def test_no_score_is_taken_of_no_batch(command: str, flag: str, lightning, trained: Path) -> None:
    done = lightning(command, "--ckpt_path", trained, f"--trainer.{flag}", "0")
    assert (done.status, f"trainer.{flag}: {command} needs at least 1 batch" in done.err) == (2, True), done.err
    done = lightning(command, "--ckpt_path", trained, f"--trainer.{flag}", "0.001")
    assert (done.status, "Traceback" in done.err) == (1, False), done.err


def test_a_run_whose_time_is_up_says_so(lightning, tmp_path: Path) -> None:
    time = ("--trainer.max_time", "00:00:00:01")
    assert lightning(*TINY, *time, "--trainer.max_epochs", "100000").status == 0
    done = lightning("fit", "--ckpt_path", "run")
    assert (done.status, "this run is finished: its " in done.out) == (0, True), done.out + done.err


def test_a_fused_optimizer_clips_nothing_that_is_scaled() -> None:
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    trainer = Trainer(accelerator="cpu", plugins=[scaled], gradient_clip_val=1.0, logger=False)
    weights = [torch.nn.Parameter(torch.zeros(1))]
    check_clipping(trainer, torch.optim.AdamW(weights))
    with pytest.raises(UsageError, match=r"a fused AdamW can't clip in 16-mixed; --model\.optimizer\.fused false"):
        check_clipping(trainer, torch.optim.AdamW(weights, fused=True))
