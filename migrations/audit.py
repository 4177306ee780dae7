"""The audit log: one row for each change, in the transaction of the change, chained by hash for each tenant.

A row's hash covers its contents and the hash of the row before, so that a row that is altered or removed shows.
`audit_heads` holds the last hash of each chain, so that a row that is cut off at the end shows too. Changes that
concern no single tenant form a chain of their own.

Rows that are too old give way to one that says how far they went: `prune`.
"""

import hashlib
import json
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, null, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.notices import ConfigChange, ConfigNotice
from contracts.wire import utc_now
from migrations import outbox
from migrations.schema import audit_heads, audit_log

PRUNE = "audit.prune"
"""The action of a row that stands for older ones; its `after` names the last of them."""

CONFIGURATION = frozenset({"tenant", "provider", "token", "webhook"})
"""Types of objects whose changes are told as notices, too."""

Snapshot = Mapping[str, Any]
"""An object as the API shows it: JSON without secrets."""

_PRUNED_AT_ONCE = 10_000
_OPTIONAL = ("before", "after", "refusal")
_ADDED = ("refusal",)
"""What rows of older versions lack; a hash covers it only where it is there."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for a change, and from which address."""

    actor: str
    source: str


@dataclass(frozen=True, slots=True)
class Change:
    """`tenant` None: all tenants. `before` None: it did not exist. `after` None: it is gone.

    `refusal`: what was answered when the change was not made; None: it was made.
    """

    action: str
    object_type: str
    object_id: str
    tenant: str | None
    before: Snapshot | None
    after: Snapshot | None
    refusal: Snapshot | None = None


async def record(connection: AsyncConnection, change: Change, origin: Origin) -> None:
    """Appends to the tenant's chain; its lock is held until the transaction ends."""
    before = await _end_of(connection, change.tenant)
    at = utc_now()
    row = {
        "at": at,
        "actor": origin.actor,
        "source": origin.source,
        "action": change.action,
        "object_type": change.object_type,
        "object_id": change.object_id,
        "tenant": change.tenant,
        "before": change.before,
        "after": change.after,
        "refusal": change.refusal,
    }
    after = link(before, row)
    absent = {name: null() for name in _OPTIONAL if row[name] is None}
    statement = insert(audit_log).values({**row, **absent, "prev_hash": before, "hash": after})
    seq = await connection.scalar(statement.returning(audit_log.c.seq))
    head = postgresql.insert(audit_heads).values(chain=chain_of(change.tenant), seq=seq, hash=after)
    await connection.execute(
        head.on_conflict_do_update(index_elements=[audit_heads.c.chain], set_={"seq": seq, "hash": after})
    )
    if change.object_type in CONFIGURATION and change.refusal is None:
        await outbox.append(connection, _notice(change, origin, at=at))


def _notice(change: Change, origin: Origin, *, at: datetime) -> ConfigNotice:
    """Names no value: only which fields differ."""
    before, after = change.before or {}, change.after or {}
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ConfigNotice(
        id=uuid.uuid4(),
        source="/fleet/admin",
        subject=change.object_id,
        time=at,
        tenant=change.tenant,
        data=ConfigChange(
            tenant=change.tenant,
            object_type=change.object_type,
            object_id=change.object_id,
            action=change.action,
            actor=origin.actor,
            changed=tuple(names),
        ),
    )


async def prune(connection: AsyncConnection, tenant: str | None, *, before: datetime, origin: Origin) -> int:
    """Deletes the oldest of a tenant's rows from before `before`, and appends one that says so. Returns how many.

    The new row holds the hash of the last row that is gone, which what is left follows. A chain whose old rows only
    tell of earlier pruning stays as it is.
    """
    await _end_of(connection, tenant)
    columns = audit_log.c
    first_to_keep = select(func.min(columns.seq)).where(_of(tenant), columns.at >= before).scalar_subquery()
    old = select(columns.seq, columns.at, columns.hash, columns.action).where(
        _of(tenant), columns.seq < func.coalesce(first_to_keep, sys.maxsize)
    )
    rows = (await connection.execute(old.order_by(columns.seq).limit(_PRUNED_AT_ONCE))).all()
    if all(row.action == PRUNE for row in rows):
        return 0
    last = rows[-1]
    await connection.execute(delete(audit_log).where(_of(tenant), columns.seq <= last.seq))
    facts = {"rows": len(rows), "seq": last.seq, "at": _time(last.at), "hash": bytes(last.hash).hex()}
    await record(connection, Change(PRUNE, "audit", str(last.seq), tenant, before=None, after=facts), origin)
    return len(rows)


async def beginning(connection: AsyncConnection, tenant: str | None) -> tuple[bytes, int | None]:
    """What the first row that is left of a chain follows, and the `seq` of that row when it gave way to a later one."""
    pruned = select(audit_log.c.after).where(_of(tenant), audit_log.c.action == PRUNE)
    facts: Any = await connection.scalar(pruned.order_by(audit_log.c.seq.desc()).limit(1))
    try:
        return bytes.fromhex(facts["hash"]), int(facts["seq"])
    except (KeyError, TypeError, ValueError):
        # There is none, or one that its writer did not leave so: then the first row does not follow.
        return first_link(tenant), None


def chain_of(tenant: str | None) -> str:
    """The name of a tenant's chain in `audit_heads`."""
    return f"audit:{tenant}" if tenant is not None else "audit"


def first_link(tenant: str | None) -> bytes:
    """What the first row of a chain follows."""
    return hashlib.sha256(chain_of(tenant).encode()).digest()


def link(before: bytes, row: Mapping[str, Any]) -> bytes:
    """The hash of a row that follows the row with the hash `before`."""
    facts = {**row, "at": _time(row["at"])}
    for name in _ADDED:
        if facts.get(name) is None:
            facts.pop(name, None)
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


async def _end_of(connection: AsyncConnection, tenant: str | None) -> bytes:
    """What the chain's next row follows. Locks the chain until the transaction ends."""
    chain = chain_of(tenant)
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(chain, 0))))
    head = await connection.scalar(select(audit_heads.c.hash).where(audit_heads.c.chain == chain))
    return bytes(head) if head is not None else first_link(tenant)


def _of(tenant: str | None) -> ColumnElement[bool]:
    return audit_log.c.tenant.is_not_distinct_from(tenant)


def _time(at: datetime) -> str:
    """A time as the hashes cover it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
