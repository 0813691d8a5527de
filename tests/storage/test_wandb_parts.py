"""W&B's files of a run: which they are, the links to them, and what a kill leaves of them."""

import shutil
from pathlib import Path

import pytest

from resnet18.storage.wandb_parts import link_parts, mend, parts, records


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, in its place below ``runs/``."""
    return shutil.copytree(trained, tmp_path / "runs" / "digits" / trained.name, symlinks=True)


def test_parts_are_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    names = ("offline-run-20260101_000000-a", "run-20260102_000000-a", "offline-run-20260103_000000-a")
    for name in (*names[::-1], "empty-offline-run-20260104_000000-a", "latest-run"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert [part.name for part in parts(tmp_path)] == list(names)


def test_the_runs_of_an_experiment_are_linked_side_by_side(run: Path, tmp_path: Path) -> None:
    second = shutil.copytree(run, run.with_name("second"), symlinks=True)
    (second / "wandb" / parts(second)[0].name).rename(second / "wandb" / "run-20990101_000000-second")
    for directory in (run, second, run):
        link_parts(directory)
    moved = shutil.move(tmp_path / "runs" / "digits", tmp_path / "runs" / "moved")
    links = sorted((Path(moved) / "wandb").iterdir())
    assert all(list(records(link)) for link in links)
    assert [link.resolve().parents[1].name for link in links] == [run.name, "second"]
    shutil.rmtree(Path(moved) / "second")
    link_parts(Path(moved) / run.name)
    assert [link.name for link in (Path(moved) / "wandb").iterdir()] == [links[0].name]  # no link to what is gone


def test_a_run_outside_runs_gets_no_links_beside_it(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "elsewhere" / "run", symlinks=True)
    link_parts(run)
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_what_a_kill_has_cut_off_is_taken_away(run: Path) -> None:
    (part,) = parts(run)
    (file,) = part.glob("*.wandb")
    content, whole = file.read_bytes(), len(list(records(part)))
    mend(part)
    assert file.read_bytes() == content
    file.write_bytes(content[:-5])
    mend(part)
    assert len(list(records(part))) == whole - 1
    assert content.startswith(file.read_bytes())
    file.write_bytes(content[:7])
    mend(part)
    assert parts(run) == []  # `wandb sync` would stop at an empty part


def test_another_file_is_not_changed(run: Path) -> None:
    (part,) = parts(run)
    (file,) = part.glob("*.wandb")
    file.write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="is damaged"):
        mend(part)
    assert file.read_bytes() == b"something else entirely"
