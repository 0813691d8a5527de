"""Checkpoint files that are cut off, damaged or can't be written."""

import io
import os
import pickle
import random
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import DROPOUT_NET, DROPOUT_RUN
from killed_runs import differences

from resnet18.errors import RunError
from resnet18.storage.checkpoint_io import AtomicCheckpointIO
from resnet18.storage.checkpoints import read_checkpoint

RUN = (*DROPOUT_RUN, "--last.every_n_steps", "15", "--trainer.max_epochs", "2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps that saved at 15, 30 and 40: ``previous.ckpt`` is of step 30."""
    from resnet18.__main__ import main

    place, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    (place / "mynet.py").write_text(DROPOUT_NET)
    os.chdir(place)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(place))
            patch.delitem(sys.modules, "mynet", raising=False)  # an earlier test's
            assert main([*RUN, "--run_dir", "run"]) == 0
    finally:
        os.chdir(before)
    return place / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, in the working directory."""
    (tmp_path / "mynet.py").write_text(DROPOUT_NET)
    return Path(shutil.copytree(whole, tmp_path / "run"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path: Path) -> None:
    """Flips a bit of a tensor's values."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("breaking", [cut, damage, empty])
def test_a_broken_last_checkpoint_falls_back_to_the_one_before(breaking, lightning, whole: Path, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    breaking(last)
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert done.err.startswith("run/checkpoints/last.ckpt is ")
    assert done.err.endswith("; resuming from previous.ckpt, step 30\n")
    assert differences(whole, run) == []


def files_that_are_none() -> dict[str, tuple[bytes, str]]:
    """Contents, and the message for each."""
    zipped, whole, legacy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("notes.txt", "hello")
    torch.save({"weight": torch.zeros(1000)}, whole)
    torch.save({"weight": torch.zeros(1000)}, legacy, _use_new_zipfile_serialization=False)
    files = {
        f"random {seed}": (random.Random(seed).randbytes(5000), "torch.save did not write it") for seed in range(9)
    }
    return files | {
        "empty": (b"", "is empty"),
        "a web page": (b"<!DOCTYPE html>\n<html>404</html>", "is not a checkpoint: it begins with '<!DOCTYPE html>'"),
        "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "it begins with 'version https://git-lfs"),
        "another archive": (zipped.getvalue(), "is a ZIP archive, but not a checkpoint"),
        "cut off": (whole.getvalue()[:2000], "is cut off"),
        "cut off early": (whole.getvalue()[:20], "is cut off"),
        "an old one, cut off": (legacy.getvalue()[:50], "is cut off"),
        "an old one, cut off later": (legacy.getvalue()[:2000], "can't be read: unexpected EOF"),
        "a pickle": (pickle.dumps({"weight": 1}), "is a pickle that torch.save did not write, and was not loaded"),
    }


@pytest.mark.parametrize("kind", files_that_are_none())
def test_a_file_that_is_no_checkpoint_is_described(kind: str, tmp_path: Path) -> None:
    content, message = files_that_are_none()[kind]
    (tmp_path / "some.ckpt").write_bytes(content)
    with pytest.raises(RunError, match=re.escape(message)) as error:
        read_checkpoint(tmp_path / "some.ckpt")
    assert str(error.value).startswith(f"{tmp_path}/some.ckpt ")
    assert "carries" not in str(error.value)


def test_checkpoints_in_torchs_old_format_are_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth")["weight"].tolist() == [1, 1, 1]


def test_with_both_broken_it_ends_in_one_message(lightning, run: Path) -> None:
    for name in ("last.ckpt", "previous.ckpt"):
        cut(run / "checkpoints" / name)
    done = lightning("fit", "--ckpt_path", "run")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "previous.ckpt is cut off: it begins as a checkpoint does" in done.err


def test_a_run_without_its_last_checkpoint_resumes_from_the_one_before(lightning, whole: Path, run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    done = lightning("fit", "--ckpt_path", "run")
    assert done.status == 0, done.err
    assert differences(whole, run) == []


def test_scores_come_only_from_the_named_file(lightning, run: Path) -> None:
    damage(run / "checkpoints" / "best.ckpt")
    done = lightning("test", "--ckpt_path", "run")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "best.ckpt is damaged" in done.err


def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(lightning, whole: Path, run: Path) -> None:
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    (run / "checkpoints" / ".last.ckpt.partial").symlink_to("/dev/full")  # every write to it finds no space
    done = lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "4")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "run/checkpoints/last.ckpt can't be written: No space left on device (" in done.err
    assert "MB free); last.ckpt is still that of the last time" in done.err
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    assert lightning("fit", "--ckpt_path", "run", "--trainer.max_epochs", "4").status == 0


def test_a_half_written_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.partial").write_bytes(b"half")
    for number in range(3):
        AtomicCheckpointIO().save_checkpoint({"number": number}, tmp_path / "last.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [read_checkpoint(tmp_path / name)["number"] for name in ("previous.ckpt", "last.ckpt")] == [1, 2]


def test_the_file_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        seen.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        seen.append(f"{Path(source).name} to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(3)}, tmp_path / "best.ckpt")
    assert seen == ["fsync .best.ckpt.partial", ".best.ckpt.partial to best.ckpt", f"fsync {tmp_path.name}"]


def test_without_hard_links_the_previous_file_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for number in range(2):
        AtomicCheckpointIO().save_checkpoint({"number": number}, tmp_path / "last.ckpt")
    assert [read_checkpoint(tmp_path / name)["number"] for name in ("previous.ckpt", "last.ckpt")] == [0, 1]


def test_a_directory_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/last.ckpt can't be written: (Not a directory|File exists)"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "file" / "last.ckpt")
