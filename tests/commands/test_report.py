"""``lightning report`` through the program: where the page goes, what it is made of, and what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from run_makers import make_run

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x^2$ & '", "مرحبا", "自転車", "", "\u202e"]


def test_the_page_of_a_run_lies_in_its_directory(lightning, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(trained)
    before = {path.name for path in trained.iterdir()}
    done = lightning("report", "latest", "--output", "page.html")
    assert (done.status, done.out.strip()) == (0, "page.html"), done.err
    page = (tmp_path / "page.html").read_text()
    assert "Confusion" in page
    assert "The first training batch" in page
    assert f"lightning test --ckpt_path {trained}" in page
    assert {path.name for path in trained.iterdir()} == before
    run = make_run(tmp_path / "runs" / "run")
    assert lightning("report", "runs/run").out.strip() == "runs/run/report.html"
    assert (run / "report.html").exists()
    assert not (run / ".report.html").exists()


def test_the_page_of_an_experiment_lies_beside_its_runs(lightning, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / "runs" / "digits" / name)
    (tmp_path / "runs" / "digits" / "latest").symlink_to("two")
    done = lightning("report", "runs/digits")
    assert (done.status, Path(done.out.strip())) == (0, tmp_path / "runs" / "digits" / "report.html"), done.err
    page = (tmp_path / "runs" / "digits" / "report.html").read_text()
    assert '<h1 class="title">2 runs: digits</h1>' in page
    assert lightning("report", "runs/digits/one", "runs/digits/two").status == 0


def test_runs_of_several_experiments_need_a_name_for_the_file(lightning, tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "run")
    make_run(tmp_path / "b" / "run", names=["cat", "dog"], experiment="pets")
    done = lightning("report", "a/run", "b/run")
    assert done.status == 2
    assert done.err.strip() == (
        "lightning report: --output: these runs are of several experiments, so the file needs a name"
    )
    assert lightning("report", "a/run", "b/run", "--output", "both.html").out.strip() == "both.html"
    assert "A and B have different classes" in (tmp_path / "both.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (
            ["runs/digits/20261124-1"],
            1,
            r"report: runs/digits/20261124-1 does not exist; did you mean runs/digits/20261124-131307-c8d2\?$",
        ),
        (["runs/digits/20261124-131307-c8d3"], 1, r"did you mean runs/digits/20261124-131307-c8d2\?$"),
        (["runs/digits/lates"], 1, r"did you mean runs/digits/latest\?$"),
        (["nowhere/at/all"], 1, r"^lightning report: nowhere/at/all does not exist$"),
        (["empty"], 1, r"^lightning report: empty is not a run: it has no config.yaml$"),
        (["runs/digits/latest", "--outptu", "x"], 2, r"--outptu: there is no such option; did you mean --output\?$"),
        (["runs/digits/latest", "--output", "no/such/x.html"], 1, r"no/such/x.html can't be written: No such file"),
        ([], 2, r"RUN"),
    ],
)
def test_what_is_refused(lightning, tmp_path: Path, arguments: list[str], status: int, text: str) -> None:
    run = make_run(tmp_path / "runs" / "digits" / "20261124-131307-c8d2")
    (run.parent / "latest").symlink_to(run.name)
    (tmp_path / "empty").mkdir()
    done = lightning("report", *arguments)
    assert done.status == status
    assert re.search(text, done.err.strip()), done.err
    assert len(done.err.strip().splitlines()) == 1


def test_names_of_any_script_are_text(lightning, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=HOSTILE, experiment=HOSTILE[0])
    origin = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**origin, "command": HOSTILE[1], "seed": HOSTILE[0]}))
    assert lightning("report", "run").status == 0
    page = (run / "report.html").read_text()
    assert page.count("<script") == 1  # our own
    assert "<img src=x" not in page
    assert page.count("<img") == 32
    for name in ("$x^2$ &amp; &#x27;", "مرحبا", "自転車"):
        assert name in page


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics.csv": None},
        {"metrics.csv": "epoch,step,val/top1\n0,9,nan\n"},
        {"metrics.csv": "epoch,step,val/top1\n0,9,0.5\n1,19"},
        {"metrics.csv": b"\xff\xfe\x00"},
        {"status.json": None, "evaluation-val.json": None, "evaluation-test.json": None, "provenance.json": None},
        {"status.json": "{", "provenance.json": "[]", "evaluation-val.json": "x", "evaluations.jsonl": '{"com'},
        {"evaluation-test.json": '{"version": 1, "confusion": 3, "class_names": ["a"], "images": "?", "mistakes": 7}'},
        {"evaluation-test.json": '{"version": 1, "scores": {"test/top1": "high"}, "images": 10}'},
        {"evaluation-test.json": '{"version": 1, "scores": []}', "status.json": '{"state": "running"}'},
        {"provenance.json": '{"git": "none", "hardware": "a laptop"}'},
        {"config.yaml": "trainer: none\nmodel: 3\nbest: true\n"},
        {"seeds.json": '{"metric": "test/top1"}'},
    ],
    ids=str,
)
def test_a_run_with_broken_files_has_a_page_all_the_same_or_a_line(
    lightning, tmp_path: Path, changed: dict[str, str | bytes | None]
) -> None:
    run = make_run(tmp_path / "runs" / "run")
    for name, content in changed.items():
        path = run.parent / name if name == "seeds.json" else run / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = lightning("report", "runs/run")
    assert done.status in (0, 1)
    assert len(f"{done.out}{done.err}".strip().splitlines()) == 1
    assert (run / "report.html").exists() == (done.status == 0)
    if "config.yaml" not in changed and "running" not in str(changed):
        assert done.status == 0, done.err
    make_run(run.parent / "other")
    assert lightning("report", "runs/run", "runs/other").status == done.status


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    readings = (
        "import sys; from resnet18.__main__ import main; status = main(['report', 'run']);"
        "print(status, {'torch', 'lightning', 'wandb', 'matplotlib', 'scipy.stats', 'pandas'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", readings], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[1] == "0 set()", done.stderr


def test_200_epochs_of_14_series_with_16_pictures_are_half_a_megabyte(lightning, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=200, names=[f"class {number}" for number in range(100)])
    assert lightning("report", "run").status == 0
    page = (run / "report.html").read_text()
    assert page.count('<path class="line') == 14
    assert len(page.encode()) <= 500_000


def test_of_1000_classes_a_page_stays_small(lightning, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=[f"n{number:08d}" for number in range(1000)])
    assert lightning("report", "run").status == 0
    assert len((run / "report.html").read_bytes()) <= 500_000
