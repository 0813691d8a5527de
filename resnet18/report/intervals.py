"""What a few seeds, and a test set of some size, tell of an accuracy: intervals and tests.

Student's t and no bootstrap, whose intervals of few values are too narrow. scipy.special and no scipy.stats, which
takes a second to import.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)
AT_LEAST = 3  # values for an interval: of two it is 18 times as wide as their standard deviation
FLIPPED = 40  # pairs at most for the exact test, which goes through 2^(n/2) sums twice


@dataclass(frozen=True)
class Spread:
    """Values of several seeds: mean, standard deviation (of n - 1) and the mean's 95 % interval by Student's t."""

    n: int
    mean: float
    sd: float | None  # None for one value
    ci95: tuple[float, float] | None  # None below three
    min: float
    max: float


@dataclass(frozen=True)
class Pairs(Spread):
    """Differences ``a - b`` of values in pairs, and the chance of such a mean if a and b were alike."""

    p: float | None  # two-sided, by Student's t; None below three pairs, and where all differences are equal
    sign_flip_p: float | None  # two-sided, over all 2^n signs; None above 40 pairs
    floor: float  # the least that sign_flip_p can be


def wilson(right: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy that was measured on n images (Wilson 1927)."""
    share = right / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return 0.0 if right == 0 else middle - half, 1.0 if right == n else middle + half


def student(values: Sequence[float]) -> Spread:
    """Sums up values, at least one, that are taken for normally distributed."""
    from scipy.special import stdtrit

    n, mean, sd, ci95 = len(values), math.fsum(values) / len(values), None, None
    if n > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if sd is not None and n >= AT_LEAST:
        half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
        ci95 = mean - half, mean + half
    return Spread(n, mean, sd, ci95, min(values), max(values))


def paired(a: Sequence[float], b: Sequence[float]) -> Pairs:
    """Compares values in pairs, as of two recipes with the same seeds."""
    from scipy.special import stdtr

    differences = [one - other for one, other in zip(a, b, strict=True)]
    found, p = student(differences), None
    if found.n >= AT_LEAST and found.sd:
        p = 2 * float(stdtr(found.n - 1, -abs(found.mean) / (found.sd / math.sqrt(found.n))))
    return Pairs(**asdict(found), p=p, sign_flip_p=_sign_flip_p(differences), floor=2 / 2**found.n)


def _sign_flip_p(differences: Sequence[float]) -> float | None:
    """The share of the 2^n signs with which the sum is as far from 0 as it is, or farther (Fisher 1935)."""
    import numpy

    n = len(differences)
    if n > FLIPPED:
        return None
    halves = []  # of the sums: each of one half is paired with those of the other by search, not one by one
    for part in (differences[: n // 2], differences[n // 2 :]):
        sums = numpy.zeros(1)
        for difference in part:
            sums = numpy.concatenate([sums + difference, sums - difference])
        halves.append(sums)
    left, right = halves[0], numpy.sort(halves[1])
    bound = abs(math.fsum(differences)) - 1e-12 * math.fsum(map(abs, differences))  # equal but for rounding: as far
    within = numpy.searchsorted(right, bound - left, "left") - numpy.searchsorted(right, -bound - left, "right")
    return 1 - int(numpy.maximum(within, 0).sum()) / 2**n
