from resnet18.report.seed_text import lines

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
    assert last == "  There is no interval and no t-test below 3 pairs."
