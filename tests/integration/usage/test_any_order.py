"""Whatever order records come in, however often and by how many consumers: the same tables, to the last digit."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from contracts.usage import Outcome, Usage, UsageRecord, UsageSource
from tests.integration.usage.conftest import Books
from tests.usage import USED_AT, record
from workers.usage.ledger import Ledger
from workers.usage.rollups import ROLL_UPS

RANKS = [
    (UsageSource.VENDOR, Outcome.COMPLETED),
    (UsageSource.ESTIMATED, Outcome.FAILED),
    (UsageSource.ESTIMATED, Outcome.ABANDONED),
    (UsageSource.UNKNOWN, Outcome.ABANDONED),
]
# Three tenants' providers, and times around a midnight and around an hour.
TIMES = [
    USED_AT,
    USED_AT + timedelta(minutes=59, seconds=59),
    USED_AT.replace(hour=23, minute=59),
    USED_AT + timedelta(hours=12),
]
COUNTS = st.integers(0, 2**40)
COSTS = st.none() | st.decimals(Decimal(0), Decimal(1000), places=10)


@st.composite
def said(draw: st.DrawFn, request_id: str) -> list[UsageRecord]:
    """What workers may say of one attempt: at most one record of each rank, dated within minutes of each other."""
    tenant = draw(st.sampled_from("abc"))
    started_at = draw(st.sampled_from(TIMES))
    ranks = draw(st.lists(st.sampled_from(RANKS), min_size=1, unique=True))
    return [
        record(
            request_id,
            tenant=tenant,
            provider_id=f"provider-of-{tenant}",
            agent=draw(st.sampled_from(["planner", "writer"])),
            model=draw(st.sampled_from(["small", "large"])),
            started_at=started_at + draw(st.sampled_from([timedelta(0), timedelta(minutes=1)])),
            usage=Usage(input_tokens=draw(COUNTS), output_tokens=draw(COUNTS), source=source),
            outcome=outcome,
            cost=None if (cost := draw(COSTS)) is None else str(cost),
        )
        for source, outcome in ranks
    ]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[UsageRecord], list[list[UsageRecord]]]:
    """Records, and batches in which each comes at least once, in any order."""
    records = [each for n in range(draw(st.integers(1, 5))) for each in draw(said(f"r{n}"))]
    more = draw(st.lists(st.sampled_from(records), max_size=8))
    order = draw(st.permutations([*records, *more]))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=4)))
    return records, [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True) if a < b]


async def test_any_order_and_any_repetition_gives_the_same_tables(books: Books) -> None:
    ledgers = [Ledger(books.engine) for _ in range(2)]
    runner = asyncio.get_running_loop()

    async def booked(batches: list[list[UsageRecord]], *, at_once: bool) -> dict[str, list[dict[str, Any]]]:
        async with books.engine.begin() as connection:
            await connection.execute(text(f"TRUNCATE llm_usage_events, {', '.join(r.name for r in ROLL_UPS)}"))
        if at_once:
            await asyncio.gather(*(ledgers[n % 2].book(batch) for n, batch in enumerate(batches)))
        else:
            for batch in batches:
                await ledgers[0].book(batch)
        await books.assert_balanced()
        return await books.tables()

    @given(deliveries())
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def same(delivered: tuple[list[UsageRecord], list[list[UsageRecord]]]) -> None:
        records, batches = delivered

        async def tables() -> list[dict[str, list[dict[str, Any]]]]:
            straight = await booked([records], at_once=False)
            return [straight, await booked(batches, at_once=False), await booked(batches, at_once=True)]

        straight, one_by_one, at_once = asyncio.run_coroutine_threadsafe(tables(), runner).result(60)
        assert one_by_one == straight
        assert at_once == straight

    await asyncio.to_thread(same)
