"""Prices what was booked anew, after a price was corrected: events, roll-ups and the audit log in one transaction.

The same function as the workers' says what an attempt costs, as of its own time; a tenant's own prices have no history,
so those of today are used.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from pydantic import TypeAdapter
from sqlalchemy import RowMapping, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.providers import Price
from contracts.usage import Usage, UsagePart, UsageSource, plain_decimal
from contracts.wire import utc_now
from migrations import audit
from migrations.audit import Origin
from migrations.schema import llm_agent_usage, llm_usage_events, tenants
from runtime.prices.pricing import Priced, price
from workers.usage import rollups
from workers.usage.alerts import alert_counts
from workers.usage.alerts.alert_counts import TenantDay
from workers.usage.arrays import given, parameters
from workers.usage.entries import Amounts, Change, entry_of_event, total
from workers.usage.verification import Period, checkable

_AT_ONCE = 2000
_PRICES: TypeAdapter[dict[str, Price]] = TypeAdapter(dict[str, Price])


@dataclass(frozen=True, slots=True)
class Repriced:
    """What became of a tenant's day; costs are those of the attempts whose price changed."""

    day: date
    tenant: str
    events: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)
    unpriced_before: int = 0
    unpriced_after: int = 0

    def with_more(self, before: Sequence[Decimal | None], after: Sequence[Decimal | None]) -> "Repriced":
        """The same with more attempts: their costs as they were booked and as they are now, None where unpriced."""
        return Repriced(
            self.day,
            self.tenant,
            self.events + len(before),
            self.before + sum(filter(None, before)),
            self.after + sum(filter(None, after)),
            self.unpriced_before + before.count(None),
            self.unpriced_after + after.count(None),
        )


async def reprice(
    engine: AsyncEngine, period: Period, *, origin: Origin, tenant: str | None = None
) -> AsyncGenerator[Repriced]:
    """Prices each day of each tenant (or of one) in a transaction of its own, and yields what changed there.

    Doing it again changes nothing more.
    """
    for day in await checkable(engine, period):
        for slug in [tenant] if tenant is not None else await _tenants(engine, day):
            async with engine.begin() as connection:
                done = await _reprice(connection, day, slug, origin)
            yield done


async def _tenants(engine: AsyncEngine, day: date) -> Sequence[str]:
    columns = llm_agent_usage.c
    async with engine.connect() as connection:
        query = select(columns.tenant).distinct().where(columns.date == day).order_by(columns.tenant)
        return (await connection.scalars(query)).all()


async def _reprice(connection: AsyncConnection, day: date, tenant: str, origin: Origin) -> Repriced:
    """Changes the events of a tenant's day, and with them its roll-ups, its alerts and the audit log."""
    stored = await connection.scalar(select(tenants.c.prices).where(tenants.c.slug == tenant))
    overrides = _PRICES.validate_python(stored or {})
    done, changes = Repriced(day, tenant), list[Change]()
    events = await connection.stream(_EVENTS, {"on": day, "of": tenant}, execution_options={"yield_per": _AT_ONCE})
    async for rows in events.mappings().partitions():
        priced = [(row, _price(row, overrides)) for row in rows]
        changed = [(row, new) for row, new in priced if (row["cost"], row["price_source"]) != (new.amount, new.source)]
        if not changed:
            continue
        values = [
            (row["id"], day, new.amount, new.source, new.used and new.used.model_dump(mode="json", exclude_none=True))
            for row, new in changed
        ]
        await connection.execute(_REPRICE, {**parameters(_CHANGED, values), "on": day})
        changes = total([*changes, *(_change(row, new) for row, new in changed)])
        done = done.with_more([row["cost"] for row, _ in changed], [new.amount for _, new in changed])
    await rollups.apply(connection, changes)
    days = {TenantDay(dimensions.tenant, dimensions.day) for dimensions, _ in changes}
    await alert_counts.store(connection, [], days=days, now=utc_now())
    if done.events:
        change = audit.Change(
            action="usage.reprice",
            object_type="usage",
            object_id=day.isoformat(),
            tenant=tenant,
            before={"events": done.events, "cost": plain_decimal(done.before), "unpriced": done.unpriced_before},
            after={"events": done.events, "cost": plain_decimal(done.after), "unpriced": done.unpriced_after},
        )
        await audit.record(connection, change, origin)
    return done


_events = llm_usage_events.c
_EVENTS = (
    select(llm_usage_events)
    .where(_events.day == bindparam("on"), _events.tenant == bindparam("of"))
    .order_by(_events.id)
    .with_for_update()
)
_CHANGED = ("id", "day", "cost", "price_source", "price")
_new = given(_events[name] for name in _CHANGED)
_REPRICE = (
    update(llm_usage_events)
    .values({name: _new.c[name] for name in _CHANGED})
    .where(_events.id == _new.c.id, _events.day == _new.c.day, _events.day == bindparam("on"))
)


def _price(row: RowMapping, overrides: Mapping[str, Price]) -> Priced:
    """What a row of llm_usage_events costs at today's knowledge of the prices of its time."""
    usage = Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cache_read_tokens=row["cache_read_tokens"],
        cache_write_tokens=row["cache_write_tokens"],
        cache_write_1h_tokens=row["cache_write_1h_tokens"],
        reasoning_tokens=row["reasoning_tokens"],
        source=UsageSource(row["usage_source"]),
        parts=tuple(map(UsagePart.model_validate, row["usage_parts"] or ())),
    )
    return price(
        usage,
        provider=row["provider"],
        model=row["model"],
        at=row["started_at"],
        overrides=overrides,
        service_tier=row["service_tier"],
    )


def _change(row: RowMapping, new: Priced) -> Change:
    """What the roll-ups change by when the row gets its new price."""
    was, now = row["cost"], new.amount
    by = Amounts(total_cost=(now or Decimal(0)) - (was or 0), unpriced_count=(now is None) - (was is None))
    return entry_of_event(row).dimensions, by
