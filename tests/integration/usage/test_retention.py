"""Days made ahead, days dropped: events go, roll-ups stay, and nothing is booked twice for want of its event."""

import asyncio
from datetime import date, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from contracts.wire import utc_now
from tests.integration.usage.conftest import Books
from tests.usage import USED_AT, record
from workers.usage import retention
from workers.usage.ledger import BatchOutcome, Ledger, Unbookable
from workers.usage.partitions import DAYS_AHEAD
from workers.usage.retention import OTHERS
from workers.usage.verification import Period, rebuild

DAY = USED_AT.date()
NEXT = DAY + timedelta(days=1)


async def partitions(books: Books) -> set[str]:
    return {row["name"] for row in await books.rows("SELECT inhrelid::regclass::text AS name FROM pg_inherits")}


async def test_drops_the_events_of_old_days_and_keeps_what_they_came_to(books: Books) -> None:
    ledger = Ledger(books.engine)
    await ledger.book([record(cost="0.5"), record(cost="0.25", started_at=USED_AT + timedelta(days=1))])
    before = await books.tables()

    assert await retention.drop(books.engine, before=NEXT) == [DAY]
    assert await retention.drop(books.engine, before=NEXT) == []

    after = await books.tables()
    assert [event["day"] for event in after.pop("events")] == [NEXT]
    before.pop("events")
    assert after == before
    assert "llm_usage_events_20261120" not in await partitions(books)


async def test_books_nothing_where_nobody_could_tell_whether_it_was_booked(books: Books) -> None:
    ledger, other = Ledger(books.engine), Ledger(books.engine)
    late, in_time = record(), record(started_at=USED_AT + timedelta(days=1))
    await ledger.book([late])
    await retention.drop(books.engine, before=NEXT)

    # One that knew the partition, and one that starts now.
    for each in (ledger, other):
        with pytest.raises(Unbookable, match="dropped"):
            await each.book([in_time, late])

    assert await ledger.book([in_time]) == BatchOutcome(booked=1)
    assert sum(row["request_count"] for row in await books.rollups()) == 2


async def test_a_rebuild_leaves_days_without_events_alone(books: Books) -> None:
    await Ledger(books.engine).book([record(cost="0.5"), record(cost="0.25", started_at=USED_AT + timedelta(days=1))])
    await retention.drop(books.engine, before=NEXT)
    before = await books.tables()

    days = [day async for day, _ in rebuild(books.engine, Period())]

    assert DAY not in days
    assert NEXT in days
    assert await books.tables() == before


async def test_a_rebuild_puts_right_what_was_altered_lost_or_made_up(books: Books) -> None:
    await Ledger(books.engine).book([record(agent=f"a{n}", model=f"m{n}") for n in range(5)])
    before = await books.tables()
    async with books.engine.begin() as connection:
        await connection.execute(text("UPDATE llm_provider_usage SET completion_tokens = 7 WHERE model = 'm1'"))
        await connection.execute(text("DELETE FROM llm_hourly_usage WHERE model = 'm2'"))
        await connection.execute(text("UPDATE llm_agent_usage SET agent = 'nobody' WHERE agent = 'a3'"))

    found = {difference.key for difference in await books.differences()}
    mended = [each async for _, differences in rebuild(books.engine, Period(DAY, DAY)) for each in differences]

    assert {difference.key for difference in mended} == found
    assert len(found) == 4
    assert await books.tables() == before


async def test_a_rebuild_and_bookings_at_once_count_everything_once(books: Books) -> None:
    batches = [[record(agent=f"a{n % 3}") for n in range(50)] for _ in range(12)]

    async def rebuild_again_and_again() -> None:
        for _ in range(8):
            assert all([not differences async for _, differences in rebuild(books.engine, Period(DAY, DAY))])

    async with asyncio.timeout(60):
        await asyncio.gather(rebuild_again_and_again(), *(Ledger(books.engine).book(batch) for batch in batches))

    assert await books.count() == 600
    await books.assert_balanced()


async def test_many_agents_become_few_rows_when_their_events_go(books: Books) -> None:
    ledger = Ledger(books.engine)
    spent = {f"agent-{n}": Decimal(n) for n in range(1, 8)}
    await ledger.book([record(agent=agent, cost=str(cost)) for agent, cost in spent.items()])
    await ledger.book([record(agent="elsewhere", tenant="globex", provider_id="p2", cost="0.5")])

    await retention.drop(books.engine, before=NEXT, kept_agents=2)

    kept = await books.rows("SELECT tenant, agent, total_cost, request_count FROM llm_agent_usage ORDER BY 1, 2")
    assert [(row["agent"], row["total_cost"], row["request_count"]) for row in kept] == [
        (OTHERS, Decimal(15), 5),
        ("agent-6", Decimal(6), 1),
        ("agent-7", Decimal(7), 1),
        ("elsewhere", Decimal("0.5"), 1),
    ]


async def test_the_job_makes_days_ahead_and_drops_old_ones(books: Books) -> None:
    today = utc_now()
    old = today - timedelta(days=3)
    await Ledger(books.engine).book([record(started_at=old), record(started_at=today - timedelta(days=2))])

    job = asyncio.create_task(retention.keep(books.engine, retention_days=2, every_s=0.01))
    async with asyncio.timeout(90):
        while f"llm_usage_events_{old:%Y%m%d}" in await partitions(books):
            await asyncio.sleep(0.01)
    job.cancel()
    await asyncio.wait({job})

    ahead: list[date] = [(today + timedelta(days=n)).date() for n in range(DAYS_AHEAD + 1)]
    assert {f"llm_usage_events_{day:%Y%m%d}" for day in ahead} <= await partitions(books)
    assert await books.count() == 1
