"""The daily partitions of llm_usage_events: made ahead or when a day is first booked, dropped by retention."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrations.schema import llm_usage_events, llm_usage_retention

DAYS_AHEAD = 3
_DAY = timedelta(days=1)
_LOCK = int.from_bytes(b"parts")
_PARENT = llm_usage_events.name
_NAME = re.compile(rf"{_PARENT}_(\d{{4}})(\d\d)(\d\d)")


class Dropped(Exception):
    """The events of a day are gone, and with them the knowledge of what was booked there already."""


class Partitions:
    """Which days have a partition, as far as this process knows."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: set[date] = set()

    async def ensure(self, days: Iterable[date] = ()) -> None:
        """Makes what is missing for `days`, today and some days ahead. Safe when several consumers do it at once.

        Raises Dropped for a day that retention has dropped.
        """
        today = datetime.now(UTC).date()
        missing = {*days, *(today + n * _DAY for n in range(DAYS_AHEAD + 1))} - self._known
        if not missing:
            return
        async with self._engine.begin() as connection:
            await lock(connection)
            kept_from = await kept_since(connection)
            if kept_from and min(missing) < kept_from:
                raise Dropped(f"events before {kept_from} were dropped, so nobody can tell whether it was booked")
            for day in sorted(missing):
                name = f"{_PARENT}_{day.isoformat().replace('-', '')}"
                if await connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}):
                    continue
                until = f"'{day + _DAY}'" if day < date.max else "MAXVALUE"
                # Attaching takes a weaker lock on the parent than creating in place, so reading and booking go on.
                made = f"CREATE TABLE {name} (LIKE {_PARENT} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
                attached = f"ALTER TABLE {_PARENT} ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ({until})"
                await connection.execute(text(made))
                await connection.execute(text(attached))
        self._known |= missing

    def forget(self) -> None:
        """Lets the next `ensure` look again, because a partition may have been dropped."""
        self._known.clear()


async def lock(connection: AsyncConnection) -> None:
    """Lets everybody else who makes or drops partitions wait until the transaction ends."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


async def kept_since(connection: AsyncConnection) -> date | None:
    """The first day whose events were not dropped; None when none ever were."""
    return await connection.scalar(select(llm_usage_retention.c.kept_from))


async def days(connection: AsyncConnection) -> dict[date, str]:
    """The days that have a partition, in order, with the partition's name."""
    query = text(
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
        "WHERE inhparent = to_regclass(:parent) ORDER BY relname"
    )
    names = await connection.scalars(query, {"parent": _PARENT})
    return {date(*map(int, found.groups())): name for name in names if (found := _NAME.fullmatch(name))}
