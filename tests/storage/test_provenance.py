"""The code that a run keeps: commits, differences from them, and the user's modules."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIG, ROOT, SMALL

from resnet18.storage.provenance import LARGEST, measured_with, own_sources, provenance

MY_NET = """
from torch import nn

class MyNet(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
"""
MY_CALLBACK = """
from lightning.pytorch import Callback

class Quiet(Callback):
    pass
"""
FIT = (*("fit", "--config", CONFIG, "--trainer.precision", "32-true", "--trainer.max_epochs", "1"), "--run_dir", "run")
OWN = ("--model.backbone", "mynet.MyNet", "--trainer.logger", "false", "--trainer.callbacks", "own.calls.Quiet")


def git(place: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *identity, "-C", str(place), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def origin(place: Path) -> dict[str, Any]:
    return json.loads((place / "run" / "provenance.json").read_text())


@pytest.mark.parametrize("in_a_repository", [False, True])
def test_a_run_keeps_the_users_own_modules(in_a_repository: bool, lightning, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "calls.py").write_text(MY_CALLBACK)
    (tmp_path / "other.py").write_text("KEY = 'secret'")
    if in_a_repository:
        git(tmp_path, "init")
        git(tmp_path, "add", "other.py")
        git(tmp_path, "commit", "-m", "One")
        (tmp_path / "other.py").write_bytes(b"KEY = '\xe9'")  # not UTF-8, and so is the diff
    (tmp_path / "mynet.py").write_text(MY_NET)  # git doesn't know it
    done = lightning(*FIT, *OWN)
    assert done.status == 0, done.err
    code = tmp_path / "run" / "code"
    kept = {path.relative_to(code).as_posix(): path.read_text() for path in code.rglob("*.py")}
    assert kept == {"mynet.py": MY_NET, "own/calls.py": MY_CALLBACK}  # no library's, none of this package, no other
    here = origin(tmp_path)["directory_git"]
    if in_a_repository:
        assert here["sha"] == git(tmp_path, "rev-parse", "HEAD")
        assert "?? mynet.py" in here["status"].splitlines()
        assert "-KEY = 'secret'" in here["diff"]
    else:
        assert here is None


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_run_started_elsewhere_knows_the_packages_commit(lightning, tmp_path: Path) -> None:
    done = lightning(*FIT, *SMALL, "--trainer.logger", "false", "--trainer.limit_train_batches", "1")
    assert done.status == 0, done.err
    sha = git(ROOT, "rev-parse", "HEAD")
    assert origin(tmp_path)["git"]["sha"] == sha
    assert measured_with(origin(tmp_path))["git"] == sha
    assert not (tmp_path / "run" / "code").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_repository_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "configs")
    found = provenance(seed=1, split_hash="")
    assert found["git"]["sha"]
    assert found["directory_git"] is None


def test_a_package_installed_below_a_repository_is_not_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "One")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("resnet18.storage.provenance.PACKAGE", tmp_path)  # as if it lay in ./.venv, untracked
    found = provenance(seed=1, split_hash="")
    assert found["git"] is None
    assert found["directory_git"]["sha"] == git(tmp_path, "rev-parse", "HEAD")
    assert measured_with(found)["git"] is None


def test_a_package_keeps_its_name_and_a_large_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownnets").mkdir()
    (tmp_path / "ownnets" / "__init__.py").write_text("class A: pass")
    (tmp_path / "ownnets" / "large.py").write_text("class B: pass\n#" + LARGEST * "x")
    monkeypatch.syspath_prepend(tmp_path)
    from ownnets import A  # type: ignore[import-not-found]
    from ownnets.large import B  # type: ignore[import-not-found]

    assert own_sources([A, B, len, json.JSONEncoder]) == {"ownnets/__init__.py": b"class A: pass"}
