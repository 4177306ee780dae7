"""Usage records into PostgreSQL: each id once, every roll-up with it, in one transaction a batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Column, Date, Text, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.usage import UsageRecord
from contracts.wire import utc_now
from migrations.schema import llm_usage_events
from workers.usage import rollups
from workers.usage.alerts import alert_counts
from workers.usage.alerts.alert_counts import TenantDay
from workers.usage.arrays import given, parameters
from workers.usage.entries import (
    LedgerEntry,
    best_of_each,
    day_of,
    entry_of,
    entry_of_event,
    is_better,
)
from workers.usage.partitions import Dropped, Partitions

_DAY = timedelta(days=1)
_NEAR_MIDNIGHT_MIN = 5
"""How many minutes the clocks of two workers may be apart that speak of the same attempt."""
_MIDNIGHT_LOCK = int.from_bytes(b"midnite")
_NO_PARTITION = "23514"
"""check_violation: the SQLSTATE of a row for which there is no partition."""
_DEADLOCK = {"40001", "40P01"}
_UNBOOKABLE = ("22", "23", "54")
"""Classes of SQLSTATE that blame the values: data, constraint, a limit of the program."""
_TRIES = 4


class Unbookable(Exception):
    """These values are not booked, now and always."""


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch's records."""

    booked: int = 0
    replaced: int = 0
    duplicates: int = 0


class Ledger:
    """Books batches in PostgreSQL. Any number of consumers may book at once, also the same records."""

    def __init__(self, engine: AsyncEngine, *, now: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._now = now
        self._partitions = Partitions(engine)

    async def book(self, records: Sequence[UsageRecord]) -> BatchOutcome:
        """Books a batch, all of it or nothing. What is known already changes nothing, unless it is better now.

        Raises Unbookable when the fault is in a record, and the database's own errors otherwise.
        """
        best = best_of_each(records)
        for tries_left in reversed(range(_TRIES)):
            try:
                booked, replaced = await self._book_once(best)
            except Dropped as exc:
                raise Unbookable(str(exc)) from None
            except DBAPIError as exc:
                self._prepare_next_try(exc, tries_left=tries_left)
            else:
                return BatchOutcome(booked, replaced, len(records) - booked - replaced)
        raise AssertionError("the last try returns or raises")

    async def known(self, days: Mapping[str, date]) -> set[str]:
        """Which of these ids are booked. `days`: when each call began, by the id of its record."""
        near = {day + timedelta(days=off) for day in days.values() for off in (-1, 0, 1)}
        async with self._engine.begin() as connection:
            return set(await connection.scalars(_KNOWN, {"ids": list(days), "days": sorted(near)}))

    def _prepare_next_try(self, exc: DBAPIError, *, tries_left: int) -> None:
        """Returns when another try can succeed, and else raises what has failed."""
        state = str(getattr(exc.orig, "sqlstate", None) or "")
        if tries_left and (state in _DEADLOCK or state == _NO_PARTITION):
            # Another consumer's retention may have dropped a partition that this process knows.
            self._partitions.forget()
            return
        # asyncpg raises a ValueError for a value that it cannot encode; then nothing was sent.
        cannot_be_encoded = exc.orig is not None and isinstance(exc.orig.__cause__, ValueError)
        if state.startswith(_UNBOOKABLE) or cannot_be_encoded:
            raise Unbookable(f"PostgreSQL refuses its values ({state or 'cannot be encoded'})") from None
        raise exc

    async def _book_once(self, best: dict[str, UsageRecord]) -> tuple[int, int]:
        """Books the best record of each id in one transaction. Returns how many were new, and how many replaced one."""
        await self._partitions.ensure({day_of(record) for record in best.values()})
        async with self._engine.begin() as connection:
            elsewhere = await _on_the_other_day(connection, best.values())
            fresh = [best[id_] for id_ in sorted(best.keys() - elsewhere)]
            entries = [entry_of(record) for record in fresh]
            inserted: set[str] = set()
            if fresh:
                rows = map(_event_row, fresh, entries)
                inserted.update(await connection.scalars(_INSERT, parameters(_EVENT_COLUMNS, rows)))
            changes = [entry.added() for record, entry in zip(fresh, entries, strict=True) if record.id in inserted]
            # What another consumer inserted meanwhile is known by now, too.
            known = [best[id_] for id_ in sorted(best.keys() - inserted)]
            replaced = await _replace_worse(connection, known)
            for new, old in replaced:
                changes += new.added(), old.removed()
            await rollups.apply(connection, changes)
            days = {TenantDay(dimensions.tenant, dimensions.day) for dimensions, _ in changes}
            booked = [record for record in fresh if record.id in inserted]
            await alert_counts.store(connection, booked, days=days, now=self._now())
        return len(inserted), len(replaced)


_events = llm_usage_events.c
_EVENT_COLUMNS = [c.name for c in _events if c.name != "booked_at"]
_THESE = (
    _events.id == func.any(bindparam("ids", type_=ARRAY(Text))),
    _events.day == func.any(bindparam("days", type_=ARRAY(Date))),
)
_KNOWN = select(_events.id).where(*_THESE)
_INSERT = (
    insert(llm_usage_events)
    .from_select(_EVENT_COLUMNS, select(given(_events[name] for name in _EVENT_COLUMNS)))
    .on_conflict_do_nothing()
    .returning(_events.id)
)
_LOCK = select(llm_usage_events).where(*_THESE).order_by(_events.id, _events.day).with_for_update()
_HELD_DAY = Column("held_day", Date)
_better = given([*(_events[name] for name in _EVENT_COLUMNS), _HELD_DAY])
_REPLACE = (
    update(llm_usage_events)
    .values({name: _better.c[name] for name in _EVENT_COLUMNS})
    .where(
        _events.id == _better.c.id,
        _events.day == _better.c.held_day,
        _events.day == func.any(bindparam("held_day", type_=ARRAY(Date))),
    )
)


def _other_day(record: UsageRecord) -> date | None:
    """The day on the other side of midnight, when that is so near that another worker's clock may have said it."""
    at = record.started_at
    minute = at.hour * 60 + at.minute
    if minute < _NEAR_MIDNIGHT_MIN:
        return at.date() - _DAY if at.date() > date.min else None
    if minute >= 24 * 60 - _NEAR_MIDNIGHT_MIN:
        return at.date() + _DAY if at.date() < date.max else None
    return None


async def _on_the_other_day(connection: AsyncConnection, records: Iterable[UsageRecord]) -> set[str]:
    """The ids of the records that are booked already on the other side of midnight.

    The day is a part of the events' key, because they are partitioned by it, so the key does not see these.
    """
    others = {record.id: day for record in records if (day := _other_day(record))}
    if not others:
        return set()
    # One batch at a time here: a second one would not see what the first has not committed yet.
    await connection.execute(select(func.pg_advisory_xact_lock(_MIDNIGHT_LOCK)))
    return set(await connection.scalars(_KNOWN, {"ids": list(others), "days": sorted(set(others.values()))}))


async def _replace_worse(
    connection: AsyncConnection, records: list[UsageRecord]
) -> list[tuple[LedgerEntry, LedgerEntry]]:
    """(new, old) for each record that is better than what the ledger has."""
    if not records:
        return []
    by_id = {record.id: record for record in records}
    days = {day for record in records for day in (day_of(record), _other_day(record)) if day}
    replaced: list[tuple[LedgerEntry, LedgerEntry]] = []
    rows: list[tuple[Any, ...]] = []
    for row in (await connection.execute(_LOCK, {"ids": list(by_id), "days": sorted(days)})).mappings():
        record, old = by_id[row["id"]], entry_of_event(row)
        if is_better(record.usage.source, record.outcome, than_source=old.source, than_outcome=old.outcome):
            new = entry_of(record)
            replaced.append((new, old))
            rows.append((*_event_row(record, new), row["day"]))
    if rows:
        await connection.execute(_REPLACE, parameters([*_EVENT_COLUMNS, _HELD_DAY.name], rows))
    return replaced


def _event_row(record: UsageRecord, entry: LedgerEntry) -> tuple[Any, ...]:
    """The record's values in the order of `_EVENT_COLUMNS`."""
    usage = record.usage
    return (
        record.id,
        entry.dimensions.day,
        record.request_id,
        record.attempt,
        record.tenant,
        record.agent,
        record.provider,
        record.provider_id,
        record.endpoint,
        record.model,
        record.response_model,
        record.outcome,
        record.error_code,
        record.started_at,
        record.finished_at,
        record.time_to_first_token_s,
        record.duration_s,
        record.queued_s,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.reasoning_tokens,
        usage.source,
        None if record.cost is None else entry.amounts.total_cost,
        record.price_source,
        record.price.model_dump(mode="json", exclude_none=True) if record.price else None,
        record.service_tier,
        [part.model_dump(mode="json") for part in usage.parts] or None,
        record.metadata,
    )
