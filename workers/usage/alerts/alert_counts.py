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
from workers.usage.entries import ERRORS

WINDOW_S = 600
RECENT = timedelta(hours=1)
"""How far from now an attempt may have ended to be counted: older ones do not say how a provider does now."""


class TenantDay(NamedTuple):
    """A tenant's spending is measured by UTC day."""

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
class WindowCounts:
    """How the attempts of a window went."""

    requests: int = 0
    errors: int = 0
    refused_at: datetime | None = None
    """The last time that the vendor refused the key."""
    succeeded_at: datetime | None = None
    """The last time that an attempt completed."""
    first_token: dict[int, int] = field(default_factory=dict[int, int])
    duration: dict[int, int] = field(default_factory=dict[int, int])
    """How many completed attempts fall into each bucket of `sketch`; so does `first_token`."""

    def count(self, record: UsageRecord) -> None:
        """Counts one attempt more."""
        self.requests += 1
        if record.outcome is Outcome.COMPLETED:
            self.succeeded_at = later(self.succeeded_at, record.finished_at)
            bucket = bucket_of(record.duration_s)
            self.duration[bucket] = self.duration.get(bucket, 0) + 1
            if record.time_to_first_token_s is not None:
                bucket = bucket_of(record.time_to_first_token_s)
                self.first_token[bucket] = self.first_token.get(bucket, 0) + 1
        elif record.outcome in ERRORS:
            self.errors += 1
            if record.error_code is ErrorCode.AUTHENTICATION_FAILED:
                self.refused_at = later(self.refused_at, record.finished_at)

    def add(self, other: "WindowCounts") -> None:
        """Adds how more attempts of the same window went."""
        self.requests += other.requests
        self.errors += other.errors
        self.refused_at = later(self.refused_at, other.refused_at)
        self.succeeded_at = later(self.succeeded_at, other.succeeded_at)
        for histogram, more in ((self.first_token, other.first_token), (self.duration, other.duration)):
            for bucket, number in more.items():
                histogram[bucket] = histogram.get(bucket, 0) + number


@dataclass(slots=True)
class AlertCounts:
    """What one batch, or several, count towards alerts."""

    windows: dict[WindowKey, WindowCounts] = field(default_factory=dict[WindowKey, WindowCounts])
    days: set[TenantDay] = field(default_factory=set[TenantDay])
    """The days whose cost has changed."""

    def add(self, other: "AlertCounts") -> None:
        """Adds what another batch counts."""
        for key, counts in other.windows.items():
            self.windows.setdefault(key, WindowCounts()).add(counts)
        self.days |= other.days


async def store(
    connection: AsyncConnection, booked: Iterable[UsageRecord], *, days: Set[TenantDay], now: datetime
) -> None:
    """Writes what a transaction counts towards alerts, in that transaction.

    `booked` are the attempts that were new to the ledger, `days` those whose cost has changed.
    """
    if days:
        counted = to_json(AlertCounts(count(booked, now=now), set(days)))
        await connection.execute(insert(alert_pulses), {"counted": counted})


def count(booked: Iterable[UsageRecord], *, now: datetime) -> dict[WindowKey, WindowCounts]:
    """How attempts went, by window; only those are counted that ended within `RECENT` of now."""
    windows: dict[WindowKey, WindowCounts] = {}
    oldest, newest = now - RECENT, now + RECENT
    for record in booked:
        if not oldest <= record.finished_at <= newest:
            continue
        start = int(record.finished_at.timestamp()) // WINDOW_S * WINDOW_S
        key = WindowKey(record.tenant, record.provider, record.model, start)
        counts = windows.get(key)
        if counts is None:
            counts = windows[key] = WindowCounts()
        counts.count(record)
    return windows


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later of two times that there may be."""
    if one is None or other is None:
        return one or other
    return max(one, other)


def to_json(counted: AlertCounts) -> dict[str, Any]:
    """As the column `counted` of alert_pulses holds it; `from_json` reads it."""
    return {
        "days": [[tenant, day.isoformat()] for tenant, day in sorted(counted.days)],
        "windows": [
            [
                *key,
                counts.requests,
                counts.errors,
                counts.refused_at and counts.refused_at.isoformat(),
                counts.succeeded_at and counts.succeeded_at.isoformat(),
                list(counts.first_token.items()),
                list(counts.duration.items()),
            ]
            for key, counts in counted.windows.items()
        ],
    }


def from_json(value: Any) -> AlertCounts:
    """What `to_json` wrote. Raises KeyError, TypeError, ValueError for what another version wrote in another form."""
    counted = AlertCounts(days={TenantDay(tenant, date.fromisoformat(day)) for tenant, day in value["days"]})
    for tenant, provider, model, start, requests, errors, refused, succeeded, first_token, duration in value["windows"]:
        refused_at, succeeded_at = (
            None if at is None else datetime.fromisoformat(at).astimezone(UTC) for at in (refused, succeeded)
        )
        counted.windows[WindowKey(tenant, provider, model, start)] = WindowCounts(
            requests, errors, refused_at, succeeded_at, dict(first_token), dict(duration)
        )
    return counted
