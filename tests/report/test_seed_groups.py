import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from resnet18.errors import RunError, UsageError
from resnet18.report.intervals import wilson
from resnet18.report.seed_groups import check_protocol, choose_metric, lines, protocol, read_group, sum_up
from resnet18.storage.overview import overview
from resnet18.storage.records import read_config, read_json, write_config, write_json

Make = Callable[..., Path]
OURS, THEIRS = [0.96, 0.97, 0.99, 0.98, 0.975], [0.95, 0.975, 0.97, 0.96, 0.955]


@pytest.fixture
def make(trained: Path, tmp_path: Path) -> Make:
    """Makes a group of finished runs, with a test top-1 for each seed."""

    def group(name: str, scores: list[float], first: int = 1, split: str = "abc", **changes: Any) -> Path:
        for seed, score in enumerate(scores, first):
            run = tmp_path / name / f"seed-{seed}"
            run.mkdir(parents=True)
            for file in ("metrics.csv", "status.json"):
                shutil.copy(trained / file, run)
            write_json(run / "provenance.json", {**read_json(trained / "provenance.json"), "split_hash": split})
            config: dict[str, Any] = {**read_config(trained), "seed_everything": seed}
            for key, value in changes.items():
                *above, last = key.split("__")
                part = config
                for one in above:
                    part = part[one]
                part[last] = value
            write_config(run, config)
            record = {"command": "test", "given": {}, "flip_tta": False, "test/loss": 2 * score, "test/top1": score}
            (run / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
            write_json(run / "evaluation-test.json", {"part": "test", "images": 359})
        return tmp_path / name

    return group


def test_a_group_is_summed_up(make: Make) -> None:
    group = make("ours", OURS)
    found = sum_up(group)
    assert (found["n"], found["metric"], found["test_images"]) == (5, "test/top1", 359)
    assert found["mean"] == pytest.approx(0.975)
    assert found["sd"] == pytest.approx(stats.tstd(OURS))
    assert (found["min"], found["max"]) == (0.96, 0.99)
    assert found["ci95"] == pytest.approx(tuple(stats.ttest_1samp(OURS, 0).confidence_interval()))
    assert found["test_error"] == pytest.approx(wilson(350.025, 359))
    assert [(one["seed"], one["value"]) for one in found["per_seed"]] == list(enumerate(OURS, 1))
    assert found["protocol"]["data.val_share"] == 0.1
    assert "data.batch_size" not in found["protocol"]
    text = "\n".join(lines(found))
    assert "mean      97.50 %  sd 1.12 %  min 96.00 %  max 99.00 %  n 5" in text
    assert "over seeds   96.11 to 98.89 %: 95 % interval of the mean, Student's t" in text
    low, high = wilson(350.025, 359)
    assert f"over images  {100 * low:.2f} to {100 * high:.2f} %: 95 % interval for the 359 test images, Wilson" in text
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(sum_up(group)))


def test_two_groups_are_compared_in_pairs(make: Make) -> None:
    theirs = make("theirs", THEIRS, model__optimizer__init_args__lr=0.01)
    found = sum_up(make("ours", OURS), against=theirs)["against"]
    expected = stats.ttest_rel(OURS, THEIRS)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["ci95"] == pytest.approx(tuple(expected.confidence_interval()))
    assert (found["n"], found["sign_flip_p"], found["floor"]) == (5, 0.125, 0.0625)
    assert found["differences"] == {"model.optimizer.lr": [0.002, 0.01]}
    text = "\n".join(lines(sum_up(make("again", OURS), against=theirs)))
    assert "against theirs, seed by seed: lr 0.002, not 0.01" in text
    assert "difference   +1.30 points  n 5" in text
    assert f"t-test       p = {expected.pvalue:.4f}" in text
    assert "sign flips   p = 0.1250, exact; 5 pairs can't give less than 0.0625" in text


def test_seeds_of_one_side_are_named_and_two_pairs_have_no_test(make: Make) -> None:
    found = sum_up(make("ours", OURS[:3]), against=make("theirs", THEIRS[:3], first=2))
    other = found["against"]
    assert (other["seeds"], other["only_here"], other["only_there"]) == ([2, 3], [1], [4])
    assert (other["ci95"], other["p"]) == (None, None)
    text = "\n".join(lines(found))
    assert "left out     seed 1, only here\n  left out     seed 4, only there" in text
    assert "There is no interval below 3 seeds." in text
    assert "There is no interval below 3 seeds." in "\n".join(lines(sum_up(make("two", OURS[:2]))))
    with pytest.raises(RunError, match=r"apart has no finished run with test/top1 of the same seeds"):
        sum_up(make("more", OURS), against=make("apart", OURS, first=10))


def test_other_images_and_other_protocols_are_refused(make: Make) -> None:
    ours = make("ours", OURS)
    with pytest.raises(RunError, match="other was trained on other images: its split is xyz, here it is abc"):
        sum_up(ours, against=make("other", THEIRS, split="xyz"))
    with pytest.raises(UsageError, match=r"share can't .*: data.val_share is 0.1 here and 0.2 there$"):
        sum_up(ours, against=make("share", THEIRS, data__init_args__val_share=0.2))
    loss = make("loss", THEIRS, best={"monitor": "val/loss", "mode": "min"})
    with pytest.raises(UsageError, match=r"best.monitor is val/top1 here and val/loss there; best.mode"):
        sum_up(ours, against=loss)
    faster = make("faster", THEIRS, data__init_args__batch_size=32, data__init_args__flip=True)
    assert sum_up(ours, against=faster)["against"]["n"] == 5
    make("ours", OURS[:1], first=6, split="xyz")
    with pytest.raises(RunError, match="ours: its runs were trained on different images, split abc in seed-5, xyz in"):
        sum_up(ours)


def test_a_protocol_that_fit_has_not_completed_yet_is_compared(make: Make) -> None:
    theirs = read_config(make("theirs", THEIRS) / "seed-1")
    printed = {**theirs, "best": {"monitor": "val/top1", "mode": None}}
    check_protocol(printed, theirs, "theirs")
    with pytest.raises(UsageError, match=r"best.monitor is val/loss here"):
        check_protocol({**theirs, "best": {"monitor": "val/loss", "mode": None}}, theirs, "theirs")
    own = {**theirs, "data": {"class_path": "mydata.Mine", "init_args": {"rotate": 1, "batch_size": 3}}}
    assert {key: value for key, value in protocol(own).items() if key[:4] == "data"} == {
        "data": "mydata.Mine",
        "data.rotate": 1,  # of a user's own option it is not known what it does
    }


def test_the_metric_is_the_tests_or_what_chose_the_epoch(make: Make) -> None:
    group = make("ours", OURS)
    assert sum_up(group, "test/loss")["mean"] == pytest.approx(2 * 0.975)
    assert sum_up(group, "test/loss")["test_error"] is None
    assert sum_up(group, "val/top1")["mean"] == overview(group / "seed-1").best
    with pytest.raises(UsageError, match=r"no test/top2, but test/loss, test/top1, val/top1; did you mean test/top1\?"):
        choose_metric(read_group(group).values(), "test/top2")
    for run in group.iterdir():
        (run / "evaluations.jsonl").unlink()
    found = sum_up(group)
    assert (found["metric"], found["n"], found["sd"]) == ("val/top1", 5, 0)
    assert next(lines(found)) == "ours  val/top1: there are no test scores"


def test_a_killed_and_a_diverged_seed_have_no_score(make: Make) -> None:
    group = make("ours", OURS)
    for seed, state in ((2, "stopped"), (4, "diverged")):
        path = group / f"seed-{seed}" / "status.json"
        write_json(path, {**read_json(path), "state": state})
    found = sum_up(group)
    assert (found["n"], found["mean"]) == (3, pytest.approx(0.975))
    assert [one["value"] for one in found["per_seed"]] == [0.96, None, 0.99, None, 0.975]
    assert "  seed 2    stopped\n" in "\n".join(lines(found))
    for seed in range(1, 6):
        write_json(group / f"seed-{seed}" / "status.json", {"state": "failed"})
    assert sum_up(group)["n"] == 0
    assert list(lines({**sum_up(group), "metric": "test/top1"}))[-1] == "  seed 5    failed"


SEED = {"seed": 1, "value": 0.25, "state": "finished"}
LOSS = {
    **{"group": "a", "metric": "val/loss", "n": 3, "mean": 0.25, "sd": 0.05, "min": 0.2, "max": 0.3},
    **{
        "ci95": [0.1, 0.4],
        "test_error": None,
        "test_images": 143,
        "per_seed": [SEED, {"seed": 12, "value": None, "state": "diverged"}],
    },
}
PAIRS = {
    **{"group": "b", "n": 1, "mean_difference": -0.01, "ci95": None, "p": None, "sign_flip_p": None, "floor": 1.0},
    **{"only_here": [], "only_there": [], "differences": {}},
}


def test_a_metric_that_is_no_share_is_written_in_its_own_unit() -> None:
    assert list(lines(LOSS)) == [
        "a  val/loss: there are no test scores",
        "  seed 1    0.2500",
        "  seed 12   diverged",
        "  mean      0.2500  sd 0.0500  min 0.2000  max 0.3000  n 3",
        "  over seeds   0.1000 to 0.4000: 95 % interval of the mean, Student's t",
    ]


def test_what_one_seed_can_not_tell_is_left_out() -> None:
    one = {**LOSS, "metric": "test/loss", "n": 1, "sd": None, "ci95": None, "against": PAIRS}
    first, *_, mean, none, _, against, difference, last = lines(one)
    assert first == "a  test/loss"
    assert mean == "  mean      0.2500  min 0.2000  max 0.3000  n 1"
    assert none == "  There is no interval below 3 seeds."
    assert against == "against b, seed by seed: no option differs"
    assert difference == "  difference   -0.0100  n 1"
    assert last == "  There is no interval below 3 seeds."
