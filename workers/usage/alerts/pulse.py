"""What a booked batch counts towards alerts: written in the transaction of the booking, in one row.

So a record counts once whatever dies, and the bill waits for no alert: consumers share no row here, and nothing is
evaluated yet.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import ErrorCode
from contracts.usage import Outcome, UsageRecord
from migrations.schema import alert_pulses
from workers.usage.alerts.sketch import bucket_of
from workers.usage.booking import ERRORS

WINDOW_S = 600
RECENT = timedelta(hours=1)
_NOTE = insert(alert_pulses)


class TenantDay(NamedTuple):
    tenant: str
    day: date


class WindowKey(NamedTuple):
    """Attempts of one model that ended in the same ten minutes."""

    tenant: str
    provider: str
    model: str
    start: int
    """Seconds since the epoch, a multiple of WINDOW_S."""


@dataclass(slots=True)
class Counts:
    requests: int = 0
    errors: int = 0
    refused_at: datetime | None = None
    """The last time that the vendor refused the key."""
    succeeded_at: datetime | None = None
    """The last time that an attempt completed."""
    first_token: dict[int, int] = field(default_factory=dict[int, int])
    duration: dict[int, int] = field(default_factory=dict[int, int])
    """By bucket, of completed attempts."""

    def add(self, other: "Counts") -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.refused_at = later(self.refused_at, other.refused_at)
        self.succeeded_at = later(self.succeeded_at, other.succeeded_at)
        _add(self.first_token, other.first_token)
        _add(self.duration, other.duration)


@dataclass(slots=True)
class Pulse:
    windows: dict[WindowKey, Counts] = field(default_factory=dict[WindowKey, Counts])
    days: set[TenantDay] = field(default_factory=set[TenantDay])
    """Whose cost has changed."""

    def add(self, other: "Pulse") -> None:
        for key, counts in other.windows.items():
            self.windows.setdefault(key, Counts()).add(counts)
        self.days |= other.days


async def note(
    connection: AsyncConnection, booked: Iterable[UsageRecord], *, days: Set[TenantDay], now: datetime
) -> None:
    """Counts what a transaction has booked, in that transaction. `booked`: attempts that were new to the ledger.
    `days`: where the cost has changed."""
    if days:
        await connection.execute(_NOTE, {"counted": to_json(Pulse(count(booked, now=now), set(days)))})


def count(booked: Iterable[UsageRecord], *, now: datetime) -> dict[WindowKey, Counts]:
    """Of attempts that ended about now: how others went says nothing of how it is."""
    windows: dict[WindowKey, Counts] = {}
    oldest, newest = now - RECENT, now + RECENT
    for record in booked:
        if not oldest <= record.finished_at <= newest:
            continue
        start = int(record.finished_at.timestamp()) // WINDOW_S * WINDOW_S
        key = WindowKey(record.tenant, record.provider, record.model, start)
        counts = windows.get(key)
        if counts is None:
            counts = windows[key] = Counts()
        _count(counts, record)
    return windows


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


def _count(counts: Counts, record: UsageRecord) -> None:
    counts.requests += 1
    if record.outcome is Outcome.COMPLETED:
        counts.succeeded_at = later(counts.succeeded_at, record.finished_at)
        _increment(counts.duration, record.duration_s)
        if record.time_to_first_token_s is not None:
            _increment(counts.first_token, record.time_to_first_token_s)
    elif record.outcome in ERRORS:
        counts.errors += 1
        if record.error_code is ErrorCode.AUTHENTICATION_FAILED:
            counts.refused_at = later(counts.refused_at, record.finished_at)


def _increment(counts: dict[int, int], seconds: float) -> None:
    bucket = bucket_of(seconds)
    counts[bucket] = counts.get(bucket, 0) + 1


def _add(counts: dict[int, int], others: dict[int, int]) -> None:
    for bucket, other in others.items():
        counts[bucket] = counts.get(bucket, 0) + other


def to_json(pulse: Pulse) -> dict[str, Any]:
    return {
        "days": [[tenant, day.isoformat()] for tenant, day in sorted(pulse.days)],
        "windows": [
            [
                *key,
                counts.requests,
                counts.errors,
                _text(counts.refused_at),
                _text(counts.succeeded_at),
                list(counts.first_token.items()),
                list(counts.duration.items()),
            ]
            for key, counts in pulse.windows.items()
        ],
    }


def from_json(value: Any) -> Pulse:
    """Raises KeyError, TypeError, ValueError for what another version wrote in another form."""
    pulse = Pulse(days={TenantDay(tenant, date.fromisoformat(day)) for tenant, day in value["days"]})
    for tenant, provider, model, start, requests, errors, refused, succeeded, first_token, duration in value["windows"]:
        pulse.windows[WindowKey(tenant, provider, model, start)] = Counts(
            requests, errors, _time(refused), _time(succeeded), dict(first_token), dict(duration)
        )
    return pulse


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
