"""Exponential pauses."""

import pytest

from runtime.backoff import exponential_s


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (1_000_000, 5.0)])
def test_a_pause_doubles_with_each_failure_up_to_its_bound(failures: int, pause_s: float) -> None:
    assert exponential_s(0.5, failures=failures, longest_s=5.0) == pause_s


def test_a_pause_may_grow_by_another_factor() -> None:
    assert exponential_s(5.0, failures=3, longest_s=3600.0, factor=3.0) == 45.0


def test_jitter_is_a_share_of_the_bounded_pause() -> None:
    assert exponential_s(1.0, failures=9, longest_s=8.0, jitter=0.25) == 2.0
    assert exponential_s(1.0, failures=9, longest_s=8.0, jitter=0.0) == 0.0
