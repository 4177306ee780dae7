"""Usage records into PostgreSQL: each id once, its day's roll-up with it, in one transaction a batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Date, Table, Text, bindparam, column, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.usage import Outcome, UsageRecord, UsageSource
from migrations.schema import llm_provider_usage, llm_usage_events
from workers.usage.booking import (
    ERRORS,
    Amounts,
    Entry,
    Rollup,
    RollupKey,
    best_of_each,
    day_of,
    entry_of,
    is_better,
    roll_up,
)
from workers.usage.partitions import Partitions

_DAY = timedelta(days=1)
_NO_PARTITION = "23514"
_DEADLOCK = {"40001", "40P01"}
_UNBOOKABLE = ("22", "23", "54")
"""Classes of SQLSTATE that blame the values: data, constraint, a limit of the program."""
_TRIES = 4


class Unbookable(Exception):
    """PostgreSQL refuses these values, now and always."""


@dataclass(frozen=True, slots=True)
class Booking:
    """What became of a batch's records."""

    booked: int = 0
    replaced: int = 0
    duplicates: int = 0


class Ledger:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._partitions = Partitions(engine)

    async def book(self, records: Sequence[UsageRecord]) -> Booking:
        """Books a batch, all of it or nothing. What is known already changes nothing, unless it is better now.

        Raises Unbookable when the fault is in a record, and the database's own errors otherwise.
        """
        best = best_of_each(records)
        for tries_left in reversed(range(_TRIES)):
            try:
                booked, replaced = await self._book_once(best)
            except DBAPIError as exc:
                self._may_try_again(exc, tries_left)
            else:
                return Booking(booked, replaced, len(records) - booked - replaced)
        raise AssertionError("the last try returns or raises")

    def _may_try_again(self, exc: DBAPIError, tries_left: int) -> None:
        """Returns when another try can succeed, else raises."""
        state = str(getattr(exc.orig, "sqlstate", None) or "")
        if tries_left and (state in _DEADLOCK or state == _NO_PARTITION):
            self._partitions.forget()
            return
        if state.startswith(_UNBOOKABLE) or _refused_by_the_driver(exc):
            raise Unbookable(f"PostgreSQL refuses its values ({state or 'cannot be encoded'})") from None
        raise exc

    async def _book_once(self, best: dict[str, UsageRecord]) -> tuple[int, int]:
        await self._partitions.ensure({day_of(record) for record in best.values()})
        async with self._engine.begin() as connection:
            known = await _known_ids(connection, best.values())
            fresh = sorted(best.keys() - known)
            entries = [entry_of(best[id_]) for id_ in fresh]
            inserted = await _insert_events(connection, [best[id_] for id_ in fresh], entries)
            added = [entry for id_, entry in zip(fresh, entries, strict=True) if id_ in inserted]
            # What another consumer inserted meanwhile is known by now, too.
            replaced = await _replace_worse(connection, [best[id_] for id_ in sorted(best.keys() - inserted)])
            new, old = [new for new, _ in replaced], [old for _, old in replaced]
            await _apply(connection, roll_up([*added, *new], old))
        return len(added), len(replaced)


def _refused_by_the_driver(exc: DBAPIError) -> bool:
    """asyncpg could not encode a value; nothing was sent."""
    return exc.orig is not None and isinstance(exc.orig.__cause__, ValueError)


_EVENT_COLUMNS = [c.name for c in llm_usage_events.c if c.name != "booked_at"]
_ROLLUP_COLUMNS = [c.name for c in llm_provider_usage.c]
_AMOUNTS = Amounts._fields


def _arrays(table: Table, columns: Sequence[str]) -> Any:
    """The rows of one array parameter a column: one statement whatever the batch's size."""
    types = {name: table.c[name].type for name in columns}
    arrays = (bindparam(n, type_=ARRAY(Text() if isinstance(t, Text) else t)) for n, t in types.items())
    return select(func.unnest(*arrays).table_valued(*map(column, columns), name="given").render_derived())


_events = llm_usage_events.c
_KNOWN = select(_events.id).where(
    _events.id == func.any(bindparam("ids", type_=ARRAY(Text))),
    _events.day == func.any(bindparam("days", type_=ARRAY(Date))),
)
_INSERT = (
    insert(llm_usage_events)
    .from_select(_EVENT_COLUMNS, _arrays(llm_usage_events, _EVENT_COLUMNS))
    .on_conflict_do_nothing()
    .returning(_events.id)
)
_LOCK = (
    select(llm_usage_events)
    .where(
        _events.id == func.any(bindparam("ids", type_=ARRAY(Text))),
        _events.day == func.any(bindparam("days", type_=ARRAY(Date))),
    )
    .order_by(_events.id, _events.day)
    .with_for_update()
)
_REPLACE = update(llm_usage_events).where(_events.id == bindparam("_id"), _events.day == bindparam("_day"))
_upsert = insert(llm_provider_usage).from_select(_ROLLUP_COLUMNS, _arrays(llm_provider_usage, _ROLLUP_COLUMNS))
_ROLL_UP = _upsert.on_conflict_do_update(
    index_elements=["provider_id", "date", "model"],
    set_={name: llm_provider_usage.c[name] + _upsert.excluded[name] for name in _AMOUNTS},
)


def _neighbouring(days: Iterable[date]) -> list[date]:
    """An attempt's successor may have dated it a little differently, on the other side of midnight."""
    near = {d for day in days for d in (day, _shifted(day, -_DAY), _shifted(day, _DAY))}
    return sorted(near)


def _shifted(day: date, by: timedelta) -> date:
    try:
        return day + by
    except OverflowError:
        return day


async def _known_ids(connection: AsyncConnection, records: Iterable[UsageRecord]) -> set[str]:
    by_id = {record.id: day_of(record) for record in records}
    found = await connection.scalars(_KNOWN, {"ids": list(by_id), "days": _neighbouring(by_id.values())})
    return set(found)


async def _insert_events(connection: AsyncConnection, records: list[UsageRecord], entries: list[Entry]) -> set[str]:
    """The ids that were new."""
    if not records:
        return set()
    rows = map(_event_row, records, entries)
    columns = zip(*rows, strict=True)
    return set(await connection.scalars(_INSERT, dict(zip(_EVENT_COLUMNS, map(list, columns), strict=True))))


async def _replace_worse(connection: AsyncConnection, records: list[UsageRecord]) -> list[tuple[Entry, Entry]]:
    """(new, old) for each record that is better than what the ledger has."""
    if not records:
        return []
    by_id = {record.id: record for record in records}
    days = _neighbouring(day_of(record) for record in records)
    replaced: list[tuple[Entry, Entry]] = []
    for row in (await connection.execute(_LOCK, {"ids": list(by_id), "days": days})).mappings():
        record, old = by_id[row["id"]], _entry_of_row(row)
        if is_better(record.usage.source, record.outcome, than_source=old.source, than_outcome=old.outcome):
            new = entry_of(record, day=row["day"])
            values = dict(zip(_EVENT_COLUMNS, _event_row(record, new), strict=True))
            await connection.execute(_REPLACE, {**values, "_id": record.id, "_day": new.key.day})
            replaced.append((new, old))
    return replaced


async def _apply(connection: AsyncConnection, rollups: list[Rollup]) -> None:
    if rollups:
        rows = [_rollup_row(rollup) for rollup in rollups]
        await connection.execute(_ROLL_UP, {name: [row[name] for row in rows] for name in _ROLLUP_COLUMNS})


def _event_row(record: UsageRecord, entry: Entry) -> tuple[Any, ...]:
    """In the order of `_EVENT_COLUMNS`."""
    usage = record.usage
    return (
        record.id,
        entry.key.day,
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
        usage.reasoning_tokens,
        usage.source,
        None if record.cost is None else entry.amounts.total_cost,
        record.price_source,
        record.price.model_dump(mode="json") if record.price else None,
        record.service_tier,
        record.metadata,
    )


def _entry_of_row(row: Any) -> Entry:
    outcome = Outcome(row["outcome"])
    return Entry(
        key=RollupKey(row["provider_id"], row["day"], row["model"]),
        provider=row["provider"],
        tenant=row["tenant"],
        source=UsageSource(row["usage_source"]),
        outcome=outcome,
        amounts=Amounts(
            prompt_tokens=row["input_tokens"],
            completion_tokens=row["output_tokens"],
            cache_read_tokens=row["cache_read_tokens"],
            cache_write_tokens=row["cache_write_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            total_cost=Decimal(0) if row["cost"] is None else row["cost"],
            unpriced_count=1 if row["cost"] is None else 0,
            request_count=1,
            error_count=1 if outcome in ERRORS else 0,
        ),
    )


def _rollup_row(rollup: Rollup) -> dict[str, Any]:
    key = rollup.key
    row = {"provider_id": key.provider_id, "date": key.day, "model": key.model}
    row |= {"provider": rollup.provider, "tenant": rollup.tenant}
    return row | rollup.amounts._asdict()
