"""The daily partitions of llm_usage_events: made when a day is first booked, and one day ahead."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrations.schema import llm_usage_events

_DAY = timedelta(days=1)
_LOCK = int.from_bytes(b"parts")
_PARENT = llm_usage_events.name


class Partitions:
    """Which days have a partition, as far as this process knows."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: set[date] = set()

    async def ensure(self, days: Iterable[date]) -> None:
        """Makes what is missing for `days`, today and tomorrow. Safe when several consumers do it at once."""
        today = datetime.now(UTC).date()
        missing = {*days, today, today + _DAY} - self._known
        if not missing:
            return
        async with self._engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            for day in sorted(missing):
                await _create(connection, day)
        self._known |= missing

    def forget(self) -> None:
        """Look again: an operator may have dropped an old partition."""
        self._known.clear()


async def _create(connection: AsyncConnection, day: date) -> None:
    """Attaching takes a weaker lock on the parent than creating in place, so reads and bookings go on."""
    name = f"{_PARENT}_{day.isoformat().replace('-', '')}"
    if await connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}):
        return
    until = f"'{day + _DAY}'" if day < date.max else "MAXVALUE"
    await connection.execute(text(f"CREATE TABLE {name} (LIKE {_PARENT} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"))
    await connection.execute(
        text(f"ALTER TABLE {_PARENT} ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ({until})")
    )
