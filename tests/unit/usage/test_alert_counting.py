"""What a batch counts towards alerts: the same whatever the batches."""

import json
import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from contracts.errors import ErrorCode
from contracts.usage import Outcome, UsageRecord
from tests.usage import USED_AT, record
from workers.usage.alerts import alert_counts
from workers.usage.alerts.alert_counts import AlertCounts, TenantDay, WindowKey
from workers.usage.alerts.sketch import BUCKETS, bucket_of, dense, quantile, total

START = int(USED_AT.timestamp())


@pytest.mark.parametrize("seconds", [0.0101, 0.05, 0.4, 2.1, 60.0, 900.0])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_quantile_of_one_value_is_that_value_within_a_tenth(seconds: float, share: float) -> None:
    assert quantile(dense({bucket_of(seconds): 7}), share) == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e6, math.inf])
def test_every_duration_has_a_bucket(seconds: float) -> None:
    assert 0 <= bucket_of(seconds) < BUCKETS


@given(st.lists(st.floats(0.011, 900), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_one_of_the_values_within_a_tenth(values: list[float], share: float) -> None:
    sketch = total(dense({bucket_of(value): 1}) for value in values)

    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert quantile(sketch, share) == pytest.approx(exact, rel=0.1)


def test_no_values_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="without values"):
        quantile([0] * BUCKETS, 0.95)


def test_attempts_count_in_the_ten_minutes_in_which_they_ended() -> None:
    records = [
        record(),
        record(finished_at=USED_AT + timedelta(seconds=599)),
        record(finished_at=USED_AT + timedelta(seconds=600)),
        record(outcome=Outcome.FAILED, error_code=ErrorCode.OVERLOADED),
        record(outcome=Outcome.ABANDONED),
        record(outcome=Outcome.CANCELLED),
    ]

    windows = alert_counts.count(records, now=USED_AT)

    first = windows[WindowKey("acme", "openai", "gpt-4o-mini", START)]
    assert (first.requests, first.errors) == (5, 2)
    assert first.succeeded_at == USED_AT + timedelta(seconds=599)
    assert first.refused_at is None
    assert (sum(first.duration.values()), sum(first.first_token.values())) == (2, 2)
    assert windows[WindowKey("acme", "openai", "gpt-4o-mini", START + 600)].requests == 1


def test_what_ended_long_ago_or_far_ahead_says_nothing_of_now() -> None:
    odd = [record(finished_at=USED_AT + timedelta(seconds=seconds)) for seconds in (-3601, 3601)]
    late = [record(finished_at=USED_AT + timedelta(seconds=seconds)) for seconds in (-3600, 3600)]

    assert sum(counts.requests for counts in alert_counts.count([*odd, *late], now=USED_AT).values()) == 2


def test_only_a_refused_key_counts_as_refused() -> None:
    refused = record(outcome=Outcome.FAILED, error_code=ErrorCode.AUTHENTICATION_FAILED)

    (counts,) = alert_counts.count([refused, record(time_to_first_token_s=None)], now=USED_AT).values()

    assert counts.refused_at == refused.finished_at
    assert not counts.first_token


_RECORDS = st.builds(
    record,
    tenant=st.sampled_from(["a", "b"]),
    model=st.sampled_from(["m", "n"]),
    outcome=st.sampled_from(Outcome),
    error_code=st.sampled_from([None, ErrorCode.AUTHENTICATION_FAILED, ErrorCode.OVERLOADED]),
    finished_at=st.integers(0, 3000).map(lambda s: USED_AT + timedelta(seconds=s)),
    duration_s=st.floats(0, 1e4),
)


@given(st.lists(_RECORDS, max_size=30), st.randoms(), st.integers(1, 7))
def test_any_order_in_any_batches_adds_up_to_the_same(records: list[UsageRecord], random: object, size: int) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    together = AlertCounts()
    for start in range(0, len(shuffled), size):
        batch = shuffled[start : start + size]
        days = {TenantDay(r.tenant, r.started_at.date()) for r in batch}
        written = to_json(alert_counts.to_json(AlertCounts(alert_counts.count(batch, now=USED_AT), days)))
        together.add(alert_counts.from_json(json.loads(written)))

    assert together == AlertCounts(
        alert_counts.count(records, now=USED_AT), {TenantDay(r.tenant, r.started_at.date()) for r in records}
    )
