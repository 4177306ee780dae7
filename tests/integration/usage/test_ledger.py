"""The ledger on a real database: each id once, in whatever order, and roll-ups that add up."""

import asyncio
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain
from secrets import token_hex

import pytest
import pytest_asyncio

from contracts.usage import Outcome, Usage, UsageRecord, UsageSource
from tests.integration.usage.conftest import Books
from tests.usage import PROVIDER_ID, USED_AT, record
from workers.usage.entries import best_of_each
from workers.usage.ledger import BatchOutcome, Ledger, Unbookable

VENDOR, ESTIMATED, UNKNOWN = UsageSource.VENDOR, UsageSource.ESTIMATED, UsageSource.UNKNOWN


@pytest_asyncio.fixture
async def ledger(books: Books) -> Ledger:
    return Ledger(books.engine)


def variants(number: int) -> list[UsageRecord]:
    """What could be said of one attempt: one record for each rank, all different."""
    stated = [
        (VENDOR, Outcome.COMPLETED, (100, 40), "0.5", "gpt-4o"),
        (ESTIMATED, Outcome.FAILED, (90, 30), None, "gpt-4o"),
        (ESTIMATED, Outcome.ABANDONED, (80, 20), "0.25", "gpt-4o-mini"),
        (UNKNOWN, Outcome.ABANDONED, (0, 0), None, "gpt-4o-mini"),
    ]
    return [
        record(f"r{number}", source=source, outcome=outcome, tokens=tokens, cost=cost, model=model)
        for source, outcome, tokens, cost, model in stated
    ]


async def test_every_field_of_a_record_is_kept(ledger: Ledger, books: Books) -> None:
    usage = Usage(
        input_tokens=2**62,
        output_tokens=5,
        cache_read_tokens=4,
        cache_write_tokens=3,
        reasoning_tokens=2,
        source=VENDOR,
    )
    given = record("r", usage=usage, cost="12.3456789012", metadata={"run": "42", "ünï": [1, None, {"a": "'\"\\"}]})

    await ledger.book([given])

    (event,) = await books.events()
    assert event["usage_source"] == "vendor"
    assert event["day"] == date(2026, 11, 20)
    assert event["cost"] == Decimal("12.3456789012")
    assert [event[f] for f in ("input_tokens", "output_tokens", "cache_read_tokens")] == [2**62, 5, 4]
    assert [event[f] for f in ("cache_write_tokens", "reasoning_tokens")] == [3, 2]
    flat = given.model_dump(exclude={"usage", "cost"})
    assert {name: event[name] for name in flat} == flat
    await books.assert_balanced()


async def test_a_record_that_comes_again_changes_nothing(ledger: Ledger, books: Books) -> None:
    batch = [record() for _ in range(5)]

    assert await ledger.book(batch) == BatchOutcome(booked=5)
    before = await books.rollups()
    assert await ledger.book([*batch, *batch]) == BatchOutcome(duplicates=10)

    assert await books.rollups() == before


async def test_a_better_record_replaces_once_and_moves_the_sums(ledger: Ledger, books: Books) -> None:
    vendor, failed, abandoned, unknown = variants(1)

    assert await ledger.book([unknown]) == BatchOutcome(booked=1)
    assert await ledger.book([abandoned]) == BatchOutcome(replaced=1)
    assert await ledger.book([failed]) == BatchOutcome(replaced=1)
    await books.assert_balanced()
    assert await ledger.book([vendor]) == BatchOutcome(replaced=1)
    assert await ledger.book([vendor, failed, abandoned, unknown]) == BatchOutcome(duplicates=4)

    (row,) = await books.rollups()
    assert (row["model"], row["prompt_tokens"], row["total_cost"]) == ("gpt-4o", 100, Decimal("0.5"))
    assert (row["request_count"], row["error_count"], row["unpriced_count"]) == (1, 0, 0)
    await books.assert_balanced()


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_any_repetition_ends_the_same(ledger: Ledger, books: Books, seed: int) -> None:
    chance = random.Random(seed)
    chosen = {n: chance.sample(variants(n), chance.randint(1, 4)) for n in range(60)}
    stream = [chance.choice(said) for said in chosen.values() for _ in range(6)] + list(
        chain.from_iterable(chosen.values())
    )
    chance.shuffle(stream)

    other = Ledger(books.engine)
    while stream:
        size = chance.randint(1, 40)
        mine, yours, stream = stream[:size], stream[size // 2 : size * 2], stream[size:]
        await asyncio.gather(ledger.book(mine), other.book(yours))

    expected = best_of_each(r for said in chosen.values() for r in said)
    events = await books.events()
    assert {(e["id"], e["usage_source"], e["outcome"]) for e in events} == {
        (r.id, r.usage.source.value, r.outcome.value) for r in expected.values()
    }
    assert len(events) == 60
    await books.assert_balanced()


async def test_consumers_in_opposite_orders_neither_block_nor_count_twice(books: Books) -> None:
    records = [record(provider_id=f"p{n % 7}", model=f"m{n % 5}") for n in range(400)]
    ledgers = [Ledger(books.engine) for _ in range(4)]

    async with asyncio.timeout(90):
        booked = await asyncio.gather(
            *(ledger.book(records if n % 2 else records[::-1]) for n, ledger in enumerate(ledgers))
        )

    assert sum(booking.booked for booking in booked) == 400
    assert await books.count() == 400
    await books.assert_balanced()


async def test_an_attempt_dated_across_midnight_is_one_attempt(ledger: Ledger, books: Books) -> None:
    before = datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)
    after = before + timedelta(seconds=2)

    await ledger.book([record("r", source=ESTIMATED, outcome=Outcome.ABANDONED, started_at=after, tokens=(1, 1))])
    assert await ledger.book([record("r", started_at=before)]) == BatchOutcome(replaced=1)
    assert await ledger.book([record("r", started_at=after)]) == BatchOutcome(duplicates=1)

    (row,) = await books.rollups()
    assert (row["date"], row["prompt_tokens"]) == (date(2026, 11, 20), 10)
    await books.assert_balanced()


async def test_days_get_partitions_when_they_come_and_one_ahead(ledger: Ledger, books: Books) -> None:
    odd = [datetime(1, 1, 2, tzinfo=UTC), datetime(999, 5, 5, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)]

    booking = await ledger.book([record(started_at=day, finished_at=day) for day in (*odd, USED_AT)])

    assert booking == BatchOutcome(booked=4)
    tables = {row["name"] for row in await books.rows("SELECT inhrelid::regclass::text AS name FROM pg_inherits")}
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert {f"llm_usage_events_{tomorrow:%Y%m%d}", "llm_usage_events_20261120", "llm_usage_events_00010102"} <= tables
    await books.assert_balanced()


async def test_a_day_whose_partition_was_dropped_gets_a_new_one(ledger: Ledger, books: Books) -> None:
    await ledger.book([record()])
    async with books.engine.begin() as connection:
        await connection.exec_driver_sql("DROP TABLE llm_usage_events_20261120")

    assert await ledger.book([record()]) == BatchOutcome(booked=1)


async def test_partitions_of_one_day_are_made_by_several_at_once(books: Books) -> None:
    days = [USED_AT + timedelta(days=n) for n in range(5)]

    await asyncio.gather(*(Ledger(books.engine).book([record(started_at=day) for day in days]) for _ in range(4)))

    assert await books.count() == 20
    await books.assert_balanced()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": token_hex(5000)},
        {"metadata": {"number": [10**200_000]}},
        {"tokens": (2**63 - 1, 0)},
        {"started_at": datetime(1, 1, 1, tzinfo=UTC)},
    ],
    ids=["longer than an index holds", "a number beyond numeric", "sums beyond bigint", "a day before all days"],
)
async def test_values_that_the_database_refuses_book_nothing(
    ledger: Ledger, books: Books, changes: dict[str, object]
) -> None:
    await ledger.book([record(tokens=(1, 1))])

    with pytest.raises(Unbookable):
        await ledger.book([record(), record(**changes)])  # pyright: ignore[reportArgumentType]

    assert await books.count() == 1
    await books.assert_balanced()


async def test_an_estimate_counts_until_the_vendors_word_comes_and_costs_nothing_twice(
    ledger: Ledger, books: Books
) -> None:
    await ledger.book([record("r", source=ESTIMATED, cost="1", outcome=Outcome.ABANDONED), record("r", attempt=2)])
    await ledger.book([record("r", cost="0.75")])

    (row,) = await books.rollups()
    assert (row["provider_id"], row["request_count"], row["error_count"]) == (PROVIDER_ID, 2, 0)
    assert row["total_cost"] == Decimal("0.7500135")
