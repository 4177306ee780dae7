"""Which limits are in force, in which window they count, and whom they refuse."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from contracts.errors import ErrorCode
from contracts.providers import Limits
from workers.quotas.rate_limits import Count, Limit, Span, Unit, in_force, left_s, longest_exceeded, refusal, window
from workers.settings import WorkerSettings

DEFAULTS = Limits(requests_per_minute=60, requests_per_day=10_000)
PER_MINUTE = Limit(Unit.REQUESTS, Span.MINUTE, 60)
PER_DAY = Limit(Unit.REQUESTS, Span.DAY, 10_000)
TOKENS_PER_MINUTE = Limit(Unit.TOKENS, Span.MINUTE, 500)
NOW = datetime(2026, 11, 23, 12, 0, 42, 250_000, tzinfo=UTC)


def count(limit: Limit, total: int) -> Count:
    return Count(limit, window(limit.span, NOW), total)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {PER_MINUTE, PER_DAY}),
        ({"requests_per_minute": 5}, {Limit(Unit.REQUESTS, Span.MINUTE, 5), PER_DAY}),
        ({"requests_per_minute": 0}, {PER_DAY}),
        ({"requests_per_minute": 0, "requests_per_day": 0}, set[Limit]()),
        ({"tokens_per_minute": 500}, {PER_MINUTE, PER_DAY, TOKENS_PER_MINUTE}),
        ({"tokens_per_day": 0}, {PER_MINUTE, PER_DAY}),
    ],
)
def test_a_tenants_own_setting_wins_and_0_is_no_limit(own: dict[str, int], expected: set[Limit]) -> None:
    assert set(in_force(Limits(**own), DEFAULTS)) == expected


def test_the_environment_can_take_the_default_limits_away() -> None:
    assert in_force(Limits(), Limits(requests_per_minute=0, requests_per_day=0)) == ()


def test_the_settings_default_limits_are_those_of_the_contract() -> None:
    fields = WorkerSettings.model_fields

    assert fields["llm_rate_limit_per_minute"].default == 60
    assert fields["llm_rate_limit_per_day"].default == 10_000


@pytest.mark.parametrize(
    ("span", "at", "token", "left"),
    [
        (Span.MINUTE, NOW, "20261123T1200", 17.75),
        (Span.MINUTE, datetime(2026, 11, 23, 12, 1, tzinfo=UTC), "20261123T1201", 60),
        (Span.MINUTE, datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "20261231T2359", 0.001),
        (Span.DAY, NOW, "20261123", 43_157.75),
        (Span.DAY, datetime(2026, 11, 24, tzinfo=UTC), "20261124", 86_400),
        (Span.DAY, datetime(2026, 11, 24, 1, tzinfo=timezone(timedelta(hours=2))), "20261123", 3600),
    ],
)
def test_windows_are_those_of_the_clock_in_utc(span: Span, at: datetime, token: str, left: float) -> None:
    assert (window(span, at), left_s(span, at)) == (token, left)


@pytest.mark.parametrize(
    ("limit", "total", "exceeded"),
    [
        (PER_MINUTE, 59, False),
        (PER_MINUTE, 60, False),
        (PER_MINUTE, 61, True),
        (TOKENS_PER_MINUTE, 499, False),
        (TOKENS_PER_MINUTE, 500, True),
    ],
)
def test_a_request_is_in_the_total_and_its_tokens_are_not_yet(limit: Limit, total: int, exceeded: bool) -> None:
    assert count(limit, total).exceeded == exceeded


def test_nothing_is_refused_below_every_limit() -> None:
    assert longest_exceeded([count(PER_MINUTE, 60), count(PER_DAY, 10_000)], NOW) is None


def test_refuses_until_the_longest_of_the_exceeded_limits_ends() -> None:
    counts = [count(PER_MINUTE, 61), count(PER_DAY, 10_001), count(TOKENS_PER_MINUTE, 7)]

    exceeded = longest_exceeded(counts, NOW)

    assert exceeded is not None
    assert exceeded.limit == PER_DAY
    error = refusal("acme", exceeded.limit, NOW)
    assert (error.code, error.retryable) == (ErrorCode.TENANT_RATE_LIMITED, True)
    assert error.retry_after_s == 43_157.75
    assert error.message == "tenant acme has used its 10000 requests of this day; the next day begins in 43158 s"


@pytest.mark.parametrize(
    ("counted", "for_good"),
    [
        (count(PER_MINUTE, 60), False),
        (count(PER_MINUTE, 61), True),
        (count(TOKENS_PER_MINUTE, 500), True),
        (count(PER_DAY, 10_001), False),
    ],
)
def test_only_a_counter_that_cannot_fall_is_used_up_for_good(counted: Count, for_good: bool) -> None:
    assert counted.exceeded_for_good == for_good
