"""The Trainer's own options, through the real program: each works, or is refused before anything is written."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Done
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from test_trainer_parts import TINY

from resnet18.cli.trainer_parts import check_clipping
from resnet18.errors import UsageError
from resnet18.storage.checkpoints import read_checkpoint


def rows(run: Path, column: str) -> list[str]:
    return [row[column] for row in csv.DictReader((run / "metrics.csv").open()) if row.get(column)]


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


WORKING: dict[str, Any] = {
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
REFUSED = {
    "overfit_batches 0.1": "trainer.overfit_batches: 0.1 of 3 validation batches is less than one",
    "limit_train_batches 0": "trainer.limit_train_batches: must be at least 1 batch",
    "limit_train_batches 0.01": "trainer.limit_train_batches: 0.01 of 20 training batches is less than one",
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


@pytest.mark.parametrize("flags", WORKING)
def test_it_works(flags: str, lightning, tmp_path: Path) -> None:
    done = run_with(flags, lightning)
    assert done.status == 0, done.err
    WORKING[flags](done, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


@pytest.mark.parametrize("flags", REFUSED)
def test_it_is_refused_in_a_sentence(flags: str, lightning, tmp_path: Path) -> None:
    done = run_with(flags, lightning)
    assert done.status == 2, done.err
    assert REFUSED[flags] in done.err.splitlines()[-1]
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
