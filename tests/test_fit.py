"""``lightning fit`` and what it leaves behind: one directory a run, and a W&B run that holds everything."""

import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIG, SMALL, start

import resnet18

SHORT = (*SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "false")


def wandb_records(run: Path) -> list[dict[str, Any]]:
    """The offline W&B run, read back by W&B's own reader."""
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run / "wandb" / "latest-run")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    )
    return [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]


def test_a_run_directory_is_whole(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        *("config.yaml", "provenance.json", "metrics.csv", "checkpoints", "wandb")
    }
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (trained.parent / "latest").resolve() == trained

    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["experiment"] == "digits"
    assert config["model"]["backbone"]["init_args"]["width"] == 8
    assert config["trainer"]["max_epochs"] == 3
    assert config["data"]["init_args"]["split_seed"] == 0  # a default, resolved

    origin = json.loads((trained / "provenance.json").read_text())
    assert origin["seed"] == config["seed_everything"] == 1
    assert origin["split_hash"] == resnet18.load_run(trained).data.split_hash
    assert origin["versions"]["torch"] == torch.__version__.split("+")[0]
    assert origin["hardware"]["cores"] == os.cpu_count()
    assert origin["command"]


def test_metrics_csv_has_every_log_point_and_epoch(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert list(rows[0]) == ["epoch", "step", "train/loss", "lr", "images_per_s", "val/loss", "val/top1", "val/top5"]
    training = [row for row in rows if row["train/loss"]]
    validation = [row for row in rows if row["val/top1"]]
    assert [int(row["step"]) for row in training] == [9, 19, 29, 39, 49, 59]  # 20 steps an epoch, logged every 10
    assert [(int(row["epoch"]), int(row["step"])) for row in validation] == [(0, 19), (1, 39), (2, 59)]
    assert float(training[-1]["train/loss"]) < float(training[0]["train/loss"])
    assert all(float(row["images_per_s"]) > 0 for row in training)


def test_the_schedule_steps_every_step_over_the_whole_run(trained: Path) -> None:
    rates = [float(row["lr"]) for row in csv.DictReader((trained / "metrics.csv").open()) if row["lr"]]
    peak = yaml.safe_load(CONFIG.read_text())["model"]["optimizer"]["init_args"]["lr"]
    assert max(rates) <= peak
    assert rates[-1] < 0.01 * peak
    assert len(set(rates)) == len(rates)


def test_wandb_holds_config_history_and_summary(trained: Path) -> None:
    records = wandb_records(trained)
    kinds = {record["type"] for record in records}
    assert {"history", "summary"} <= kinds
    text = json.dumps(records)
    for told in (
        "resnet18.backbone.ResNet",
        "torch.optim.",
        "WarmupCosine",
        "resnet18.data.digits.Digits",
        "torchmetrics",
    ):
        assert told in text
    assert trained.name in text
    histories = [record for record in records if record["type"] == "history"]
    logged = {name for record in histories for name in json.dumps(record).split('"')}
    assert {"train/loss", "val/loss", "val/top1", "val/top5", "lr", "images_per_s"} <= logged


def test_wandb_knows_how_a_run_ended(lightning, tmp_path: Path, trained: Path) -> None:
    (ended,) = [record["exit"] for record in wandb_records(trained) if record["type"] == "exit"]
    assert ended.get("exit_code", 0) == 0
    done = lightning("fit", "--config", CONFIG, *SMALL, "--model.optimizer.lr", "1e30", "--run_dir", "run")
    assert done.status == 1
    assert "the loss is nan in step " in done.err
    (ended,) = [record["exit"] for record in wandb_records(tmp_path / "run") if record["type"] == "exit"]
    assert ended["exit_code"] == 1


def test_the_curves_can_be_seen_without_an_account(trained: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", str(trained / "wandb" / "latest-run")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "val/top1" in shown.stdout


def test_the_best_checkpoint_is_the_best_epochs_and_plain(trained: Path) -> None:
    best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    rows = [row for row in csv.DictReader((trained / "metrics.csv").open()) if row["val/top1"]]
    top = max(reversed(rows), key=lambda row: float(row["val/top1"]))
    assert best["global_step"] == int(top["step"]) + 1
    assert list(best["hyper_parameters"]["class_names"]) == list("0123456789")
    assert list(best["hyper_parameters"]["input_size"]) == [1, 8, 8]
    assert best["hyper_parameters"]["num_classes"] == 10
    assert {"mean", "std"} <= set(best["state_dict"])
    assert best["config"]["experiment"] == "digits"
    assert best["Digits"]["split_hash"] == resnet18.load_run(trained).data.split_hash


def test_nothing_is_printed_but_what_is_meant(lightning) -> None:
    done = lightning("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "2")
    assert done.status == 0
    assert done.err == ""
    opening, net, feed, first, second, empty, best, run, test, curves = done.out.splitlines()
    assert opening.startswith("runs/digits/20")
    assert "ResNet, 176,258 parameters, on cpu, 32-true; 1,295 images to train, 143 to validate, 10 classes" in net
    assert feed == "resident feed, 0.1 MB"
    assert first.startswith("epoch 1/2  train/loss ")
    for told in ("val/loss ", "val/top1 ", "val/top5 ", "images/s"):
        assert told in second
    assert not empty
    assert best.startswith("best    val/top1 ")
    assert best.endswith(" of 2")
    assert run == f"run     {opening}"
    assert test == "test    lightning test --ckpt_path runs/digits/latest"
    assert curves == "curves  wandb leet runs/digits/latest/wandb/latest-run"
    assert Path(curves.split()[-1]).resolve().is_dir()


def test_runs_do_not_touch_each_other(lightning, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        assert lightning("fit", "--config", CONFIG, *SHORT).status == 0
        runs.append((tmp_path / "runs" / "digits" / "latest").resolve())
    assert runs[0] != runs[1]
    assert sorted(path.name for path in (tmp_path / "runs" / "digits").iterdir()) == sorted(
        ["latest", *(run.name for run in runs)]
    )
    metrics = [[row["val/loss"] for row in csv.DictReader((run / "metrics.csv").open())] for run in runs]
    assert metrics[0] == metrics[1]  # the same seed
    assert not (runs[0] / "wandb").exists()
    assert not list(tmp_path.glob("*.yaml"))


def test_a_runs_config_starts_the_same_run_anew(lightning, tmp_path: Path, trained: Path) -> None:
    done = lightning(
        "fit", "--config", trained / "config.yaml", "--trainer.max_epochs", "1", "--trainer.logger", "false"
    )
    assert done.status == 0, done.err
    again = (tmp_path / "runs" / "digits" / "latest").resolve()  # the experiment's name is in the configuration
    assert again.name != trained.name
    config = yaml.safe_load((again / "config.yaml").read_text())
    before = yaml.safe_load((trained / "config.yaml").read_text())
    assert {key: config[key] for key in ("model", "data")} == {key: before[key] for key in ("model", "data")}


def test_run_dir_names_another_place(lightning, tmp_path: Path) -> None:
    assert lightning("fit", "--config", CONFIG, *SHORT, "--run_dir", "elsewhere/one").status == 0
    assert (tmp_path / "elsewhere" / "one" / "checkpoints" / "best.ckpt").is_file()
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "elsewhere" / "latest").exists()


def test_checkpoints_and_bar_can_be_switched_off(lightning, tmp_path: Path) -> None:
    done = lightning(
        *("fit", "--config", CONFIG, *SHORT, "--run_dir", "run"),
        *("--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"),
    )
    assert done.status == 0, done.err
    assert "epoch 1/1" not in done.out
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_logger_true_is_the_shipped_logger(lightning, tmp_path: Path) -> None:
    done = lightning(
        "fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "true", "--run_dir", "run"
    )
    assert done.status == 0, done.err
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_other_loggers_and_callbacks_from_yaml(lightning, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        """
        trainer:
          logger:
            - class_path: lightning.pytorch.loggers.CSVLogger
              init_args: {save_dir: ignored, name: mine, version: one}
          callbacks:
            - class_path: lightning.pytorch.callbacks.EarlyStopping
              init_args: {monitor: val/loss, mode: max, patience: 1}
        """
    )
    done = lightning(
        *("fit", "--config", CONFIG, "--config", "more.yaml", *SMALL, "--trainer.max_epochs", "9", "--run_dir", "run")
    )
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "mine" / "one" / "metrics.csv").is_file()
    assert 1 < done.out.count("\nepoch ") < 9  # the validation loss falls, and so the wrong mode stops it early


@pytest.mark.parametrize("monitor", ["test/top1", "test/loss"])
def test_no_callback_may_watch_the_test_images(monitor: str, lightning, tmp_path: Path) -> None:
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": monitor}}
    (tmp_path / "stop.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [stop]}}))
    done = lightning("fit", "--config", CONFIG, "--config", "stop.yaml", *SHORT)
    assert done.status == 2
    assert f"stop.yaml: trainer.callbacks[0].monitor: {monitor} would choose by the test images" in done.err
    assert not (tmp_path / "runs").exists()


WANDB = {
    "online without a login": {"WANDB_MODE": "online"},
    "online without a network": {
        "WANDB_MODE": "online",
        "WANDB_API_KEY": 40 * "0",
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # nobody listens there
        "WANDB_INIT_TIMEOUT": "2",
    },
    "disabled": {"WANDB_MODE": "disabled"},
}


@pytest.mark.parametrize("case", WANDB)
def test_wandb_never_asks_and_never_hangs(case: str, tmp_path: Path) -> None:
    home = tmp_path / "home"  # no login anywhere
    home.mkdir()
    process = start(
        ["fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "1"],
        tmp_path,
        **WANDB[case],
        HOME=str(home),
        WANDB_CONFIG_DIR=str(home),
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "best    val/top1" in out
    written = list((tmp_path / "runs" / "digits" / "latest" / "wandb").glob("offline-run-*"))
    if "online" in case:
        assert ("there is no API key" in err) == ("login" in case)
        assert "the run is kept offline, `wandb sync` uploads it later" in err
        assert "Traceback" not in err
        assert written
    else:
        assert not written
        assert "curves" not in out


def test_the_compiled_backbone_keeps_its_names(lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    done = lightning("fit", "--config", CONFIG, *SHORT, "--model.compile", "true", "--run_dir", "run")
    assert done.status == 0, done.err
    compiled = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert "backbone.layer1.0.conv1.weight" in compiled
    assert not [name for name in compiled if "_orig_mod" in name]
    assert lightning("test", "--ckpt_path", "run").status == 0


def test_a_very_narrow_network_trains_on_one_thread_of_a_cpu(tmp_path: Path) -> None:
    narrow = ("--model.backbone.width", "4", "--trainer.precision", "32-true", "--trainer.accelerator", "cpu")
    options = ("--trainer.max_steps", "50", "--trainer.logger", "false")
    process = start(["fit", "--config", CONFIG, *narrow, *options], tmp_path, OMP_NUM_THREADS="1")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err  # and not SIGABRT: "corrupted double-linked list"
