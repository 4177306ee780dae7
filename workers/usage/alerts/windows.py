"""What counted batches add up to in the database: ten-minute windows for an hour, then how fast each day was.

One consumer at a time writes here, see `evaluator`.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Table, delete, func, literal_column, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrations.schema import alert_pulses, alert_windows, latency_days
from workers.usage.alerts import alert_counts
from workers.usage.alerts.alert_counts import RECENT, AlertCounts, WindowCounts, WindowKey
from workers.usage.alerts.sketch import dense, total

log = logging.getLogger(__name__)

BATCHES_AT_ONCE = 500
BASELINE_DAYS = 7
_FOLDED_AT_ONCE = 2000
_HISTOGRAMS = ("first_token", "duration")


class _ModelDay(NamedTuple):
    """The key of latency_days."""

    tenant: str
    provider: str
    model: str
    day: date


async def take(connection: AsyncConnection) -> tuple[AlertCounts, int]:
    """What was counted since the last time, and of how many batches; it leaves the queue with the commit."""
    columns = alert_pulses.c
    oldest = select(columns.seq).order_by(columns.seq).limit(BATCHES_AT_ONCE)
    taken = delete(alert_pulses).where(columns.seq.in_(oldest)).returning(columns.counted)
    found = (await connection.scalars(taken)).all()
    together = AlertCounts()
    for counted in found:
        try:
            together.add(alert_counts.from_json(counted))
        except (KeyError, TypeError, ValueError):
            log.error("alert_pulse_unreadable")
    return together, len(found)


async def add(connection: AsyncConnection, windows: Mapping[WindowKey, WindowCounts]) -> None:
    """Adds what was counted to the windows that are there, and makes those that are missing."""
    rows = [
        {
            "tenant": key.tenant,
            "provider": key.provider,
            "model": key.model,
            "start": _EPOCH + timedelta(seconds=key.start),
            "requests": counts.requests,
            "errors": counts.errors,
            "refused_at": counts.refused_at,
            "succeeded_at": counts.succeeded_at,
            "first_token": dense(counts.first_token),
            "duration": dense(counts.duration),
        }
        for key, counts in sorted(windows.items())
    ]
    if rows:
        await connection.execute(_ADD_WINDOW, rows)


async def fold(connection: AsyncConnection, *, now: datetime) -> None:
    """Adds windows that are long over to their days, and forgets days that no baseline needs."""
    columns = alert_windows.c
    outside = or_(columns.start < now - RECENT, columns.start > now + RECENT)
    key = columns.tenant, columns.provider, columns.model, columns.start
    some = select(*key).where(outside).limit(_FOLDED_AT_ONCE)
    days: defaultdict[_ModelDay, list[Any]] = defaultdict(list)
    for row in await connection.execute(delete(alert_windows).where(tuple_(*key).in_(some)).returning(*columns)):
        days[_ModelDay(row.tenant, row.provider, row.model, row.start.astimezone(UTC).date())].append(row)
    if days:
        rows = [
            which._asdict() | {name: total(getattr(row, name) for row in days[which]) for name in _HISTOGRAMS}
            for which in sorted(days)
        ]
        await connection.execute(_ADD_DAY, rows)
    day = latency_days.c.day
    useless = or_(day < now.date() - timedelta(days=BASELINE_DAYS), day > now.date())
    await connection.execute(delete(latency_days).where(useless))


def _adding(table: Table, *, latest: Sequence[str] = ()) -> Any:
    """An upsert of one row that adds to what is there; of the columns in `latest` the later time stays."""
    upsert = insert(table)
    there, more = table.c, upsert.excluded
    changes: dict[str, Any] = {}
    for column in table.c:
        if column.primary_key:
            continue
        if column.name in _HISTOGRAMS:
            changes[column.name] = literal_column(
                "ARRAY(SELECT coalesce(a, 0) + coalesce(b, 0) "  # noqa: S608 - names of this file
                f"FROM unnest({table.name}.{column.name}, excluded.{column.name}) WITH ORDINALITY AS pairs(a, b, n) "
                "ORDER BY n)"
            )
        elif column.name in latest:
            changes[column.name] = func.greatest(there[column.name], more[column.name])
        else:
            changes[column.name] = there[column.name] + more[column.name]
    return upsert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ADD_WINDOW = _adding(alert_windows, latest=("refused_at", "succeeded_at"))
_ADD_DAY = _adding(latency_days)
