"""Failed logins slow their source down, and no known token."""

import pytest

from admin_api.access.failed_logins import FAILURES_PER_MINUTE, FailedLoginLimiter, source_of
from admin_api.http.problems import Problem
from admin_api.http.rate_limiter import RateLimiter


def is_slowed(limiter: FailedLoginLimiter, source: str, token: bytes = b"guess") -> bool:
    try:
        limiter.check(source, token)
    except Problem as problem:
        return (problem.status, problem.headers) == (429, {"Retry-After": "6"})
    return False


def after_guessing(source: str) -> FailedLoginLimiter:
    limiter = FailedLoginLimiter(RateLimiter(limit=FAILURES_PER_MINUTE, clock=lambda: 0))
    for _ in range(FAILURES_PER_MINUTE):
        assert not is_slowed(limiter, source)
        limiter.failed(source, b"guess")
    return limiter


def test_so_many_failures_and_no_more() -> None:
    limiter = after_guessing("198.51.100.7")

    assert is_slowed(limiter, "198.51.100.7")
    assert not is_slowed(limiter, "198.51.100.8")


def test_a_token_that_logged_in_lately_still_comes_in_from_there() -> None:
    limiter = after_guessing("198.51.100.7")
    limiter.succeeded(b"good")

    assert not is_slowed(limiter, "198.51.100.7", b"good")
    limiter.failed("198.51.100.7", b"good")
    assert is_slowed(limiter, "198.51.100.7", b"good")


@pytest.mark.parametrize(
    ("source", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:198.51.100.7", "198.51.100.7", True),
        ("unknown", "unknown", True),
    ],
)
def test_what_counts_as_one_source(source: str, other: str, same: bool) -> None:
    assert is_slowed(after_guessing(source), other) is same


@pytest.mark.parametrize(
    ("peer", "source"),
    [("198.51.100.7", "198.51.100.7"), ("2001:DB8::1", "2001:db8::1"), ("a" * 9000, "unknown"), (None, "unknown")],
)
def test_a_source_is_an_address_or_unknown(peer: str | None, source: str) -> None:
    assert source_of(peer) == source
