from pathlib import Path

import pytest
from conftest import wandb_records

from resnet18.report.wandb_seeds import log_summary, summary

FOUND = {
    **{"metric": "test/top1", "mean": 0.98, "sd": 0.01, "ci95": (0.96, 1.0), "n": 3},
    **{
        "wandb_id": "20261124-100000-abcd",
        "against": {"mean_difference": 0.02, "p": None},
        "command": "lightning seeds --n 3",
        "split_hash": "abc",
    },
}
LOGGER = {"class_path": "resnet18.storage.loggers.WandbRun", "init_args": {"project": "mine", "entity": None}}


def test_the_summary_has_the_metrics_name() -> None:
    assert summary(FOUND) == {
        **{"test/top1_mean": 0.98, "test/top1_sd": 0.01, "test/top1_ci_low": 0.96, "test/top1_ci_high": 1.0},
        **{"test/top1_n": 3, "test/top1_difference": 0.02},
    }
    assert summary({**FOUND, "n": 1, "sd": None, "ci95": None, "against": None}) == {
        "test/top1_mean": 0.98,
        "test/top1_n": 1,
    }


def test_it_is_a_run_of_its_own_in_the_groups_directory(tmp_path: Path) -> None:
    group = tmp_path / "digits-seeds"
    group.mkdir()
    assert log_summary(group, FOUND, {"trainer": {"logger": [LOGGER]}})
    (part,) = (group / "wandb").glob("offline-run-*")
    records = wandb_records(part)
    (started,) = [record["run"] for record in records if record["type"] == "run"]
    assert (started["job_type"], started["run_group"], started["project"]) == ("seeds", "digits-seeds", "mine")
    assert started["run_id"] == "20261124-100000-abcd"
    assert started["config"]["update"]["command"] == "lightning seeds --n 3"
    logged = [record["summary"]["update"] for record in records if record["type"] == "summary"]
    assert logged[0] == summary(FOUND)


def test_runs_without_wandb_have_no_summary_there(tmp_path: Path) -> None:
    csv = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "."}}
    for logger in (False, None, [csv]):
        assert not log_summary(tmp_path, FOUND, {"trainer": {"logger": logger}})
    assert not any(tmp_path.iterdir())


def test_what_goes_wrong_online_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert not log_summary(tmp_path, FOUND, {"trainer": {"logger": [LOGGER]}})
    said = capfd.readouterr().err
    assert said.startswith("W&B has no summary of the seeds: ")
    assert said.endswith("; the same command tries again\n")
