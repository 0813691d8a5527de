"""What a page says of a run: which score, with what interval, reached how; facts, configuration, what is missing."""

import json
import re
from pathlib import Path

import pytest
from run_makers import make_run, write_evaluation

from resnet18.report.run_files import read_run
from resnet18.report.sections import (
    configuration,
    differing,
    duration,
    facts,
    headline,
    not_measured,
    provenance,
    score,
    scores,
)

CLASSES = list("0123456789")


def test_the_test_score_stands_first_with_its_interval(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert (score(run).metric, score(run).value) == ("test/top1", 0.9)
    page = headline(run)
    assert "90.00\u00a0%" in page
    assert "95 % interval <b>82.6–94.5</b>; 90 of 100 images, Wilson" in page
    assert "Best epoch 14 of 15, chosen by val/top1 (93.33\u00a0%) on 100 validation images; split 997c" in page


def test_the_metric_that_chose_the_epoch_is_the_score(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", best={"monitor": "val/f1", "mode": "max"})
    found = score(read_run(run))
    assert (found.metric, found.value, found.interval) == ("test/f1", 0.88, "")  # Wilson's is for shares of images


def test_without_a_test_the_validation_score_says_that_it_is_too_good(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "my run", tested=False))
    assert score(run).metric == "val/top1"
    assert "too good" in headline(run)
    assert f"lightning test --ckpt_path &#x27;{run.seen.directory}&#x27;" in not_measured(run)[0]


def test_a_plain_test_is_preferred_to_one_with_options(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_evaluation(run, "test", CLASSES, flip_tta=True, given={"data.eval_batch_size": 7}, checkpoint="a/last.ckpt")
    with_options = read_run(run)
    assert score(with_options).notes[1:] == [
        "logits averaged with those of the mirror image",
        "measured with --data.eval_batch_size 7",
        "of last.ckpt",
    ]
    assert "The test with the options that the run was trained with." in not_measured(with_options)
    plain = {"command": "test", "given": {}, "flip_tta": False, "test/top1": 0.87, "test/loss": 0.4}
    (run / "evaluations.jsonl").write_text(json.dumps(plain) + "\n")
    found = score(read_run(run))
    assert (found.value, found.interval) == (0.87, "")  # the number of its images is not known


def test_a_score_of_an_earlier_best_epoch_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_evaluation(run, "test", CLASSES, epoch=3)
    assert score(read_run(run)).notes[-1] == "of epoch 4, before the run was resumed"


def test_a_run_without_anything_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("experiment: old\n")
    run = read_run(tmp_path)
    assert "No score yet: val/top1 was not logged." in headline(run)
    assert "stopped" in facts(run)
    assert len(not_measured(run)) == 4


@pytest.mark.parametrize(("seconds", "shown"), [(2.34, "2.3 s"), (744, "12.4 min"), (11160, "3.1 h"), (60, "1.0 min")])
def test_a_duration_is_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_facts_name_network_images_machine_and_code(trained: Path, tmp_path: Path) -> None:
    real = facts(read_run(trained))
    assert "<dt>images</dt><dd><bdi>1,295 train, 143 val</bdi>" in real
    assert re.search(r"<dt>network</dt><dd><bdi>ResNet, [\d,]+ parameters</bdi>", real)
    made = facts(read_run(make_run(tmp_path / "run")))
    for fact in (
        "finished",
        "15 of 15",
        "37.0 min",
        "ResNet",
        "a CPU, 2 cores",
        "997c10075d, with uncommitted changes",
    ):
        assert f"<bdi>{fact}</bdi>" in made


def test_an_unfinished_run_says_how_it_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trainer={"max_epochs": 20})
    (run / "status.json").write_text('{"state": "stopped", "reason": "SIGTERM", "seconds": 10}')
    (run / "evaluation-val.json").write_text('{"version": 1, "scores": {}, "reason": "the targets are <several>"}')
    found = read_run(run)
    assert "<bdi>stopped: SIGTERM</bdi>" in facts(found)
    readings = "".join(not_measured(found))
    assert f"The other 5 epochs: <code>lightning fit --ckpt_path {run}" in readings
    assert "the targets are &lt;several&gt;." in readings


def test_a_configuration_stands_by_section() -> None:
    shown = configuration(
        {"experiment": "a<b", "model": {"backbone": {"class_path": "x.Y", "init_args": {"width": 8}}}}
    )
    assert "<summary>general</summary>" in shown
    assert "<td>experiment</td><td><bdi>a&lt;b</bdi></td>" in shown
    assert "<td>backbone.width</td><td><bdi>8</bdi></td>" in shown
    assert "<td>backbone</td><td><bdi>x.Y</bdi></td>" in shown


def test_a_long_diff_is_cut() -> None:
    shown = provenance({"seed": 1, "git": {"sha": "abc", "diff": "<" * 30_000}})
    assert shown.count("&lt;") == 20_000
    assert "10,000 characters more in provenance.json" in shown
    assert "git status" not in shown


def test_runs_stand_side_by_side_with_what_differs(tmp_path: Path) -> None:
    model = {"backbone": {"class_path": "resnet18.backbone.ResNet", "init_args": {"width": 16}}}
    runs = [read_run(make_run(tmp_path / "a")), read_run(make_run(tmp_path / "b", model=model, tested=False))]
    rows = scores(runs, ["A", "B"]).split("<tr>")
    assert "90.00\u00a0% (82.6–94.5)" in rows[2]
    assert "93.33\u00a0% in epoch 14" in rows[3]
    assert "<td>–<br>" in rows[3]
    shown = differing(runs, ["A", "B"])
    assert "<td>model.backbone.width</td><td><bdi>8</bdi></td><td><bdi>16</bdi></td>" in shown
    assert "max_epochs" not in shown
    assert "None" in differing(runs[:1] * 2, ["A", "B"])
