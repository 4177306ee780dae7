"""The audit log: one row for each change, in the transaction of the change, chained by hash for each tenant.

A row's hash covers its contents and the hash of the row before, so that a row that is altered or removed shows.
Changes that concern no single tenant form a chain of their own.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, null, select
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.wire import utc_now
from migrations.schema import audit_log

Snapshot = Mapping[str, Any]
"""An object as the API shows it: JSON without secrets."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for a change, and from which address."""

    actor: str
    source: str


@dataclass(frozen=True, slots=True)
class Change:
    """`tenant` None: all tenants. `before` None: it did not exist. `after` None: it is gone."""

    action: str
    object_type: str
    object_id: str
    tenant: str | None
    before: Snapshot | None
    after: Snapshot | None


async def record(connection: AsyncConnection, change: Change, origin: Origin) -> None:
    """Appends to the tenant's chain; its lock is held until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(_chain(change.tenant), 0))))
    last = await connection.scalar(
        select(audit_log.c.hash)
        .where(audit_log.c.tenant.is_not_distinct_from(change.tenant))
        .order_by(audit_log.c.seq.desc())
        .limit(1)
    )
    row = {
        "at": utc_now(),
        "actor": origin.actor,
        "source": origin.source,
        "action": change.action,
        "object_type": change.object_type,
        "object_id": change.object_id,
        "tenant": change.tenant,
        "before": change.before,
        "after": change.after,
    }
    before = bytes(last) if last is not None else first_link(change.tenant)
    absent = {name: null() for name in ("before", "after") if row[name] is None}
    await connection.execute(
        insert(audit_log).values({**row, **absent, "prev_hash": before, "hash": link(before, row)})
    )


def first_link(tenant: str | None) -> bytes:
    """What the first row of a chain follows."""
    return hashlib.sha256(_chain(tenant).encode()).digest()


def link(before: bytes, row: Mapping[str, Any]) -> bytes:
    """The hash of a row that follows the row with the hash `before`."""
    at: datetime = row["at"]
    facts = {**row, "at": at.astimezone(UTC).isoformat(timespec="microseconds")}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(before + canonical.encode()).digest()


def broken_at(tenant: str | None, rows: Iterable[Mapping[str, Any]], *, follows: bytes | None = None) -> int | None:
    """The `seq` of the first row, of a tenant's rows in order, that does not follow the one before it.

    `follows`: the hash of the row before `rows`; None: they are the first ones.
    """
    before = follows if follows is not None else first_link(tenant)
    for row in rows:
        facts = {key: row[key] for key in row if key not in ("seq", "prev_hash", "hash")}
        if bytes(row["prev_hash"]) != before or bytes(row["hash"]) != link(before, facts):
            return int(row["seq"])
        before = bytes(row["hash"])
    return None


def _chain(tenant: str | None) -> str:
    return f"audit:{tenant}" if tenant is not None else "audit"
