"""The score that a run is known by: which one, with what interval, reached how."""

import json
from pathlib import Path

import pytest
from run_makers import make_run, write_evaluation

from resnet18.report.headline import duration, facts, headline, not_measured, protocol, score
from resnet18.report.run_files import read_run

CLASSES = list("0123456789")


def evaluated(run: Path, **record: object) -> None:
    with (run / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps({"command": "test", "given": {}, "flip_tta": False, **record}) + "\n")


def test_the_test_score_stands_first_with_its_interval(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    found = score(run)
    assert (found.metric, found.shown, found.images) == ("test/top1", "90.00\u00a0%", 100)
    assert found.interval == pytest.approx((0.8256, 0.9448), abs=1e-4)  # Wilson, 90 of 100
    page = headline(run)
    assert "95 % interval <b>82.6–94.5</b>; 90 of 100 images, Wilson" in page
    assert "Best epoch 14 of 15, chosen by val/top1 (93.33\u00a0%) on 100 validation images; split 997c" in page


def test_the_metric_that_chose_the_epoch_is_the_score(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", best={"monitor": "val/f1", "mode": "max"})
    found = score(read_run(run))
    assert (found.metric, found.value, found.interval) == ("test/f1", 0.88, None)  # Wilson's is for shares of images


def test_without_a_test_the_validation_score_says_that_it_is_too_good(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", tested=False))
    assert score(run).metric == "val/top1"
    assert "too good" in headline(run)
    assert "lightning test --ckpt_path 'my runs/one'" in not_measured(run, "my runs/one")[0].replace("&#x27;", "'")


def test_a_plain_test_is_preferred_to_one_with_options(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_evaluation(run, "test", CLASSES, flip_tta=True, given={"data.eval_batch_size": 7}, checkpoint="a/last.ckpt")
    with_options = read_run(run)
    notes = score(with_options).notes
    assert notes[1:] == (
        "logits averaged with those of the mirror image",
        "measured with --data.eval_batch_size 7",
        "of last.ckpt",
    )
    assert "The test with the options that the run was trained with." in not_measured(with_options, "run")
    evaluated(run, **{"test/top1": 0.87, "test/loss": 0.4})
    assert score(read_run(run)).value == 0.87
    assert score(read_run(run)).interval is None  # the number of its images is not known


def test_a_score_of_an_earlier_best_epoch_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_evaluation(run, "test", CLASSES, epoch=3)
    assert score(read_run(run)).notes[-1] == "of epoch 4, before the run was resumed"


def test_a_run_without_anything_has_a_page_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("experiment: old\n")
    run = read_run(tmp_path / "old")
    assert "No score yet: val/top1 was not logged." in headline(run)
    assert protocol(run) == ""
    assert "stopped" in facts(run)
    assert len(not_measured(run, "old")) == 4


@pytest.mark.parametrize(("seconds", "shown"), [(2.34, "2.3 s"), (744, "12.4 min"), (11160, "3.1 h"), (60, "1.0 min")])
def test_a_duration_is_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_the_facts_name_machine_and_code(tmp_path: Path) -> None:
    shown = facts(read_run(make_run(tmp_path / "run")))
    for fact in (
        "finished",
        "15 of 15",
        "37.0 min",
        "ResNet",
        "a CPU, 2 cores",
        "997c10075d, with uncommitted changes",
    ):
        assert f"<bdi>{fact}</bdi>" in shown


def test_an_unfinished_run_says_how_it_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", trainer={"max_epochs": 20})
    (run / "status.json").write_text('{"state": "stopped", "reason": "SIGTERM", "seconds": 10}')
    found = read_run(run)
    assert "<bdi>stopped: SIGTERM</bdi>" in facts(found)
    assert any("The other 5 epochs: <code>lightning fit --ckpt_path run" in text for text in not_measured(found, "run"))
    write_evaluation(run, "val", CLASSES)
    (run / "evaluation-val.json").write_text('{"version": 1, "scores": {}, "reason": "the targets are <several>"}')
    assert any("the targets are &lt;several&gt;." in text for text in not_measured(read_run(run), "run"))
