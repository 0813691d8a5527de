"""``lightning fit`` and what it leaves behind: one directory a run, and a W&B run that holds everything."""

import csv
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from conftest import CONFIG, DROPOUT_NET, ROOT, SMALL, picture_folder, start, wandb_records

import resnet18

SHORT = (*SMALL, "--trainer.max_epochs", "1", "--trainer.logger", "false")


def test_a_run_directory_is_whole(trained: Path) -> None:
    others = {"evaluations.jsonl", "evaluation-test.json"}  # which other tests leave
    assert {path.name for path in trained.iterdir()} - others == {
        *("config.yaml", "provenance.json", "metrics.csv", "checkpoints", "wandb"),
        *("status.json", "evaluation-val.json", "evaluation", "report.html"),
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
    assert list(rows[0]) == [
        *("epoch", "step", "train/loss", "lr", "images_per_s", "step_ms", "grad_norm", "weight_norm", "memory_gb"),
        *("val/loss", "val/top1", "val/top5", "best/loss", "best/top1", "best/top5", "best/epoch"),
    ]
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
    records = wandb_records(trained / "wandb" / "latest-run")
    kinds = {record["type"] for record in records}
    assert {"history", "summary"} <= kinds
    text = json.dumps(records)
    for name in (
        "resnet18.backbone.ResNet",
        "torch.optim.",
        "WarmupCosine",
        "resnet18.data.digits.Digits",
        "torchmetrics",
    ):
        assert name in text
    assert trained.name in text
    histories = [record for record in records if record["type"] == "history"]
    logged = {name for record in histories for name in json.dumps(record).split('"')}
    assert {"train/loss", "val/loss", "val/top1", "val/top5", "lr", "images_per_s"} <= logged


def test_wandb_knows_how_a_run_ended(lightning, tmp_path: Path, trained: Path) -> None:
    (ended,) = [
        record["exit"] for record in wandb_records(trained / "wandb" / "latest-run") if record["type"] == "exit"
    ]
    assert ended.get("exit_code", 0) == 0
    done = lightning("fit", "--config", CONFIG, *SMALL, "--model.optimizer.lr", "1e30", "--run_dir", "run")
    assert done.status == 1
    assert "the loss is nan in step " in done.err
    (ended,) = [
        record["exit"]
        for record in wandb_records(tmp_path / "run" / "wandb" / "latest-run")
        if record["type"] == "exit"
    ]
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
    assert "lightning test" not in done.out  # of which checkpoint?
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
              init_args: {monitor: val/loss, min_delta: 5, patience: 1}
        """
    )
    done = lightning(
        *("fit", "--config", CONFIG, "--config", "more.yaml", *SMALL, "--trainer.max_epochs", "9", "--run_dir", "a run")
    )
    assert done.status == 0, done.err
    assert (tmp_path / "a run" / "mine" / "one" / "metrics.csv").is_file()
    assert done.out.count("\nepoch ") == 2
    stopped, trained, best, _, test, _ = done.out.splitlines()[-6:]
    assert stopped == "stopped early by EarlyStopping: val/loss did not improve in the last 1 records"
    assert trained == "trained 2 of 9 epochs"
    assert best.endswith(" of 2")
    assert test == "test    lightning test --ckpt_path 'a run'"


def test_a_small_folder_is_logged_every_epoch_and_nothing_is_advised_that_fails(lightning, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    picture_folder(tmp_path / "images" / "train", each=10)
    done = lightning(
        *("fit", "--config", ROOT / "configs/imagefolder.yaml", "--model.backbone", "mynet.WithDropout"),
        *("--data.channels", "1", "--data.batch_size", "3", "--data.cache_dir", "cache", "--data.feed", "streamed"),
        *("--data.num_workers", "1", "--trainer.max_epochs", "2", "--trainer.precision", "32-true"),
    )
    assert (done.status, done.err) == (0, "")
    assert "streamed feed, 1 worker: as asked" in done.out
    assert len(re.findall(r"(?m)^epoch ./2  loss \d.* img/s  ", done.out)) == 2
    assert "top5" not in done.out
    assert "lightning test" not in done.out  # there is no images/test
    rows = resnet18.load_run("runs/imagefolder/latest").metrics
    assert [row["step"] for row in rows if "train/loss" in row] == [6, 12]


@pytest.mark.parametrize("monitor", ["test/top1", "test/loss"])
def test_no_callback_may_watch_the_test_images(monitor: str, lightning, tmp_path: Path) -> None:
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": monitor}}
    (tmp_path / "stop.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [stop]}}))
    done = lightning("fit", "--config", CONFIG, "--config", "stop.yaml", *SHORT)
    assert done.status == 2
    assert f"stop.yaml: trainer.callbacks[0].monitor: {monitor} would choose by the test images" in done.err
    assert not (tmp_path / "runs").exists()


def test_the_environment_beats_a_default_and_a_given_value_the_environment(
    lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    settings = {"PROJECT": "theirs", "ENTITY": "us", "RUN_GROUP": "some", "TAGS": "a,b", "NOTES": "why"}
    for name, value in {**settings, "JOB_TYPE": "seeds", "NAME": "mine"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # W&B reads the environment once a process
    request.addfinalizer(wandb.teardown)
    short = ("fit", "--config", CONFIG, *SMALL, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    given = ("--trainer.logger.project", "given", "--trainer.logger.name", "so", "--trainer.logger.group", "other")
    runs = []
    for directory, options in (("one", ()), ("two", given)):
        done = lightning(*short, "--run_dir", directory, *options)
        assert done.status == 0, done.err
        records = wandb_records(tmp_path / directory / "wandb" / "latest-run")
        runs.append(next(record["run"] for record in records if record["type"] == "run"))
    keys = ("project", "entity", "run_group", "tags", "notes", "job_type", "display_name")
    assert [runs[0][key] for key in keys] == ["theirs", "us", "some", ["a", "b"], "why", "seeds", "mine"]
    assert [runs[1][key] for key in keys] == ["given", "us", "other", ["a", "b"], "why", "seeds", "so"]
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())  # with which the run is resumed anywhere
    assert config["trainer"]["logger"]["init_args"]["project"] == "theirs"


def test_a_run_does_without_links(lightning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    done = lightning("fit", "--config", CONFIG, *SHORT)
    assert done.status == 0, done.err
    assert done.err == ""
    (run,) = (tmp_path / "runs" / "digits").iterdir()
    assert f"\nrun     {run.relative_to(tmp_path)}\n" in done.out
    assert f"\ntest    lightning test --ckpt_path {run.relative_to(tmp_path)}\n" in done.out


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
