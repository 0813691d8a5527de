import subprocess
import sys

import numpy
import pytest
from scipy import stats

from resnet18.report.intervals import paired, student, wilson

RANDOM = numpy.random.default_rng(0)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 359), (357, 359), (359, 359), (9_412, 10_000), (1, 2)])
def test_wilson_is_scipys(right: int, n: int) -> None:
    theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_student_is_scipys(n: int) -> None:
    values = RANDOM.normal(0.99, 0.005, n)
    found = student(list(values))
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.ci95 == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (found.n, found.mean) == (n, pytest.approx(values.mean()))
    assert found.sd == pytest.approx(values.std(ddof=1))
    assert (found.min, found.max) == (values.min(), values.max())


def test_two_values_have_no_interval_and_one_no_spread() -> None:
    assert student([0.5, 0.7]).ci95 is None
    assert student([0.5, 0.7]).sd == pytest.approx(0.2 / 2**0.5)
    assert student([0.5]).sd is None


@pytest.mark.parametrize("n", [3, 5, 8])
def test_pairs_are_scipys(n: int) -> None:
    a, b = RANDOM.normal(0.99, 0.005, n), RANDOM.normal(0.98, 0.005, n)
    found = paired(list(a), list(b))
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.ci95 == pytest.approx((interval.low, interval.high))
    flipped = stats.permutation_test((a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples")
    assert found.sign_flip_p == pytest.approx(flipped.pvalue)
    assert found.floor == 2 / 2**n


def test_equal_accuracies_count_as_equal_despite_rounding() -> None:
    a, b = [0.1, 0.2, 0.3, 0.7], [0.2, 0.3, 0.4, 0.6]  # differences of 0.1, and not one with the same last bit
    assert (
        paired(a, b).sign_flip_p
        == stats.permutation_test(
            (numpy.array([-1, -1, -1, 1]),), lambda x, axis: x.mean(axis), permutation_type="samples"
        ).pvalue
    )
    assert paired([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).sign_flip_p == 1
    assert paired([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).p is None


def test_the_exact_test_reaches_its_floor_and_no_lower() -> None:
    for n in (1, 2, 5, 13, 30):
        found = paired([1 + number / 100 for number in range(n)], [0.0] * n)
        assert found.sign_flip_p == pytest.approx(found.floor, rel=1e-6)
    assert paired([1.0] * 41, [0.0] * 41).sign_flip_p is None


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([0.5, 0.6], [0.5])


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; from resnet18.report.intervals import *; paired([.1, .2, .4], [.2, .2, .2]); wilson(1, 2)"
    code += "; print([name for name in ('torch', 'scipy.stats', 'pandas', 'lightning') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
