"""Histograms of seconds in a bounded number of buckets: exact to 10 % from 10 ms to 16 minutes, and they add up."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, sqrt

_FIRST_S = 0.01
_RATIO = 1.2
BUCKETS = 64
_BOUNDS = tuple(_FIRST_S * _RATIO**n for n in range(BUCKETS - 1))
"""The most that each bucket but the last holds."""


def bucket_of(seconds: float) -> int:
    """The bucket that a duration falls into; the first and the last one take what lies beyond."""
    return bisect_left(_BOUNDS, seconds)


def dense(counts: Mapping[int, int]) -> list[int]:
    """Every bucket's count, as a row holds them."""
    return [counts.get(bucket, 0) for bucket in range(BUCKETS)]


def total(sketches: Iterable[Sequence[int]]) -> list[int]:
    """One histogram of the values of all of them."""
    return [sum(counts) for counts in zip([0] * BUCKETS, *sketches, strict=True)]


def quantile(counts: Sequence[int], share: float) -> float:
    """The seconds that `share` of the values do not exceed. Raises ValueError when there are no values."""
    rank = ceil(share * sum(counts))
    if not rank:
        raise ValueError("a histogram without values has no quantiles")
    for bucket, count in enumerate(counts):
        rank -= count
        if rank <= 0:
            # The geometric middle of the bucket: as far from its lower bound as from its upper one in proportion.
            upper = _FIRST_S * _RATIO**bucket
            return sqrt(upper / _RATIO * upper)
    raise AssertionError("the ranks end with the last value")
