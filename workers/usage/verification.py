"""Whether the roll-ups are what the events come to, and how to make them so.

Only days whose events are there can be told: the roll-ups of days whose events were dropped are all that is left of
them, and nothing here touches those.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Select, and_, delete, func, insert, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from workers.usage import partitions
from workers.usage.entries import Amounts
from workers.usage.rollups import ROLL_UPS, RollUp


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of a roll-up that is not what the events come to."""

    table: str
    key: tuple[Any, ...]
    rolled_up: Amounts
    of_events: Amounts


@dataclass(frozen=True, slots=True)
class Period:
    """UTC days from `first` to `last`, both included; without one of them, as far as there are days."""

    first: date | None = None
    last: date | None = None

    def __contains__(self, day: date) -> bool:
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)


async def verify(engine: AsyncEngine, period: Period) -> AsyncGenerator[tuple[date, list[Difference]]]:
    """Yields each day with its differences. Whoever books meanwhile does not wait, and does not disturb."""
    for day in await checkable(engine, period):
        async with engine.connect() as connection:
            # One statement sees one moment, several would see the batches in between.
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield day, await _differences(connection, day)


async def rebuild(engine: AsyncEngine, period: Period) -> AsyncGenerator[tuple[date, list[Difference]]]:
    """Rewrites the roll-ups of each day in a transaction, in which its bookings wait.

    Yields each day with the differences that were there before.
    """
    for day in await checkable(engine, period):
        async with engine.begin() as connection:
            await partitions.lock(connection)
            name = (await partitions.days(connection)).get(day)
            if name is None:  # its events were dropped meanwhile
                continue
            # Bookings and other rebuilds of the day wait from here on; reading goes on.
            await connection.execute(text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))
            found = await _differences(connection, day)
            for roll_up in ROLL_UPS:
                if any(difference.table == roll_up.name for difference in found):
                    await connection.execute(delete(roll_up.table).where(roll_up.on(day)))
                    summed = roll_up.from_events(day)
                    await connection.execute(insert(roll_up.table).from_select(roll_up.columns, summed))
        yield day, found


async def checkable(engine: AsyncEngine, period: Period) -> list[date]:
    """The days of the period whose events are there."""
    async with engine.connect() as connection:
        kept_from = await partitions.kept_since(connection) or date.min
        return [day for day in await partitions.days(connection) if day in period and day >= kept_from]


async def _differences(connection: AsyncConnection, day: date) -> list[Difference]:
    found: list[Difference] = []
    for roll_up in ROLL_UPS:
        for row in await connection.execute(_differing(roll_up, day)):
            keys, amounts = len(roll_up.keys), len(Amounts._fields)
            key, rolled_up, of_events = row[:keys], row[keys : keys + amounts], row[keys + amounts :]
            found.append(Difference(roll_up.name, tuple(key), Amounts._make(rolled_up), Amounts._make(of_events)))
    return found


def _differing(roll_up: RollUp, day: date) -> Select[Any]:
    """Selects the rows that differ: key, amounts as rolled up, amounts of the events; a missing row counts as zeros."""
    held = select(*(roll_up.table.c[name] for name in roll_up.columns)).where(roll_up.on(day)).subquery("held")
    summed = roll_up.from_events(day).subquery("summed")
    same = and_(*(held.c[name] == summed.c[name] for name in roll_up.keys))
    keys = [func.coalesce(held.c[name], summed.c[name]).label(name) for name in roll_up.keys]
    pairs = [(func.coalesce(held.c[n], 0), func.coalesce(summed.c[n], 0)) for n in Amounts._fields]
    return (
        select(*keys, *(left for left, _ in pairs), *(right for _, right in pairs))
        .select_from(held.join(summed, same, full=True))
        .where(or_(*(left != right for left, right in pairs)))
        .order_by(*keys)
    )
