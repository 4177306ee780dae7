"""Which record of an id counts, and what it adds to its day."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import permutations

import pytest

from contracts.usage import Outcome, Usage, UsageSource
from tests.usage import PROVIDER_ID, USED_AT, record
from workers.usage.entries import Amounts, Dimensions, best_of_each, cost_of, day_of, entry_of, is_better, sums, total

VENDOR, ESTIMATED, UNKNOWN = UsageSource.VENDOR, UsageSource.ESTIMATED, UsageSource.UNKNOWN
COMPLETED, FAILED, ABANDONED = Outcome.COMPLETED, Outcome.FAILED, Outcome.ABANDONED


@pytest.mark.parametrize(
    ("new", "old", "replaces"),
    [
        ((VENDOR, COMPLETED), (ESTIMATED, COMPLETED), True),
        ((VENDOR, COMPLETED), (UNKNOWN, COMPLETED), True),
        ((ESTIMATED, COMPLETED), (UNKNOWN, FAILED), True),
        ((ESTIMATED, COMPLETED), (VENDOR, COMPLETED), False),
        ((UNKNOWN, COMPLETED), (ESTIMATED, ABANDONED), False),
        ((ESTIMATED, COMPLETED), (ESTIMATED, ABANDONED), True),
        ((ESTIMATED, ABANDONED), (ESTIMATED, COMPLETED), False),
        ((VENDOR, ABANDONED), (ESTIMATED, COMPLETED), True),
        ((VENDOR, COMPLETED), (VENDOR, FAILED), False),
        ((VENDOR, COMPLETED), (VENDOR, COMPLETED), False),
        ((ESTIMATED, ABANDONED), (ESTIMATED, ABANDONED), False),
    ],
)
def test_a_better_source_replaces_and_at_the_same_one_a_worker_that_lived(
    new: tuple[UsageSource, Outcome], old: tuple[UsageSource, Outcome], replaces: bool
) -> None:
    assert is_better(new[0], new[1], than_source=old[0], than_outcome=old[1]) is replaces


def test_the_order_of_records_does_not_matter() -> None:
    records = [
        record("r", source=source, outcome=outcome)
        for source, outcome in [(UNKNOWN, FAILED), (ESTIMATED, ABANDONED), (ESTIMATED, COMPLETED), (VENDOR, COMPLETED)]
    ]

    kept = {best_of_each(order)["r-1"].usage.source for order in permutations(records)}

    assert kept == {VENDOR}


def test_attempts_of_a_request_are_booked_each() -> None:
    assert len(best_of_each([record("r", attempt=1), record("r", attempt=2)])) == 2


@pytest.mark.parametrize(
    ("started_at", "day"),
    [
        (datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC), date(2026, 11, 20)),
        (datetime(2026, 11, 21, 0, 30, tzinfo=timezone(timedelta(hours=2))), date(2026, 11, 20)),
        (datetime(2026, 11, 20, 20, tzinfo=timezone(timedelta(hours=-5))), date(2026, 11, 21)),
    ],
)
def test_the_day_is_the_utc_day(started_at: datetime, day: date) -> None:
    assert day_of(record(started_at=started_at)) == day


@pytest.mark.parametrize(
    ("stated", "booked"),
    [
        ("0.0000135", "0.0000135"),
        ("0.00000000005", "0"),
        ("0.00000000015", "0.0000000002"),
        ("9999999999.9999999999", "9999999999.9999999999"),
    ],
)
def test_a_cost_is_booked_with_ten_decimals(stated: str, booked: str) -> None:
    assert cost_of(record(cost=stated)) == Decimal(booked)


def test_a_roll_up_counts_attempts_errors_and_unpriced_ones() -> None:
    usage = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=30, cache_write_tokens=20, reasoning_tokens=10)
    records = [
        record(cost="0.1", usage=usage),
        record(cost=None, usage=usage),
        record(cost="0.2", usage=usage, outcome=FAILED),
        record(cost="0.2", usage=usage, outcome=ABANDONED),
        record(cost="0.3", usage=usage, outcome=Outcome.CANCELLED),
    ]

    ((dimensions, amounts),) = total(entry_of(r).added() for r in records)

    assert dimensions == Dimensions(PROVIDER_ID, "acme", "planner-1", "openai", "gpt-4o-mini", USED_AT, USED_AT.date())
    assert amounts == Amounts(500, 250, 150, 100, 50, Decimal("0.8"), 1, 5, 2)


def test_what_is_replaced_is_taken_away_where_it_was_booked() -> None:
    old = entry_of(record("r", source=ESTIMATED, tokens=(7, 7), cost=None, outcome=ABANDONED))
    new = entry_of(record("r", tokens=(10, 20), cost="0.5"))
    moved = entry_of(record("r", tokens=(10, 20), cost="0.5", model="gpt-4o"))

    ((_, same_row),) = total([new.added(), old.removed()])
    there, here = total([moved.added(), old.removed()])

    assert same_row == Amounts(3, 13, 0, 0, 0, Decimal("0.5"), -1, 0, -1)
    assert (there[0].model, there[1]) == ("gpt-4o", moved.amounts)
    assert (here[0].model, here[1]) == ("gpt-4o-mini", old.amounts.negated())


def test_rows_are_changed_in_one_order() -> None:
    records = [record(provider_id=provider, model=model) for provider in "cab" for model in ("z", "a")]

    keys = list(sums([entry_of(r).added() for r in records], key=lambda by: (by.provider_id, by.model)))

    assert keys == sorted(keys)
    assert len(keys) == 6


def test_an_hour_begins_where_the_attempt_started() -> None:
    assert entry_of(record(started_at=USED_AT + timedelta(minutes=59, seconds=59.9))).dimensions.hour == USED_AT
