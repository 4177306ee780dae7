"""Checks the audit log: finds what was altered, removed from between others, or cut off at either end."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from pydantic import BaseModel
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.database import Database
from migrations.audit import beginning, broken_at, chain_of
from migrations.schema import audit_heads, audit_log

_AT_ONCE = 500


class Anchor(BaseModel):
    """A row as it once was, noted elsewhere: a line of an export is one."""

    tenant: str | None
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Chain:
    """What a check found of one tenant's rows; `tenant` None: the rows that concern no single one."""

    tenant: str | None
    rows: int = 0
    """How many hold."""
    head: str = ""
    """The hash of the last row that holds. Whoever noted it elsewhere sees later that it is still there."""
    broken_at: int | None = None
    """The `seq` of the first row that was altered or cut off, or whose predecessor was altered or removed."""
    pruned_to: int | None = None
    """The `seq` of the last row that gave way to a later one that says so."""


async def verify(database: Database, *, tenant: str | None = None) -> list[Chain]:
    """Checks the chain of one tenant, or every chain when None."""
    async with database.transaction() as connection:
        # Rows and heads must be those of one moment, or a change in between would look like a break.
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        if tenant is not None:
            return [await _verify(connection, tenant)]
        # A chain may have lost its head, or all its rows; either of them shows that it was there.
        chains = await connection.scalars(select(audit_heads.c.chain))
        headed = {name.partition(":")[2] or None for name in chains}
        rows = await connection.scalars(select(audit_log.c.tenant).distinct())
        return [await _verify(connection, each) for each in sorted(headed | set(rows), key=lambda name: name or "")]


async def missing(database: Database, anchors: Iterable[Anchor]) -> list[Anchor]:
    """The anchors whose row is altered or gone, without having been pruned."""
    remaining = iter(anchors)
    gone: list[Anchor] = []
    async with database.transaction() as connection:
        while some := list(islice(remaining, _AT_ONCE)):
            query = select(audit_log.c.seq, audit_log.c.tenant, audit_log.c.hash)
            rows = await connection.execute(query.where(audit_log.c.seq.in_([anchor.seq for anchor in some])))
            there = {(row.seq, row.tenant, bytes(row.hash).hex()) for row in rows}
            absent = [anchor for anchor in some if (anchor.seq, anchor.tenant, anchor.hash) not in there]
            pruned = {tenant: (await beginning(connection, tenant))[1] for tenant in {each.tenant for each in absent}}
            gone += [anchor for anchor in absent if anchor.seq > (pruned[anchor.tenant] or -1)]
    return gone


async def _verify(connection: AsyncConnection, tenant: str | None) -> Chain:
    """Checks the chain of one tenant, 500 rows at a time."""
    last, pruned_to = await beginning(connection, tenant)
    found = Chain(tenant, pruned_to=pruned_to)
    query = select(audit_log).where(audit_log.c.tenant.is_not_distinct_from(tenant)).order_by(audit_log.c.seq)
    seq = -1
    while found_rows := (await connection.execute(query.where(audit_log.c.seq > seq).limit(_AT_ONCE))).mappings().all():
        rows = [dict(row) for row in found_rows]
        broken = broken_at(tenant, rows, follows=last)
        whole = [row for row in rows if broken is None or row["seq"] < broken]
        if whole:
            seq, last = whole[-1]["seq"], bytes(whole[-1]["hash"])
            found = replace(found, rows=found.rows + len(whole), head=last.hex())
        if broken is not None:
            return replace(found, broken_at=broken)
    # Rows that were cut off at the end leave no gap; the head, which is kept apart from them, still names the last one.
    heads = select(audit_heads.c.seq, audit_heads.c.hash).where(audit_heads.c.chain == chain_of(tenant))
    head = (await connection.execute(heads)).first()
    if head is None:
        return replace(found, broken_at=seq if seq >= 0 else None)
    return found if bytes(head.hash) == last else replace(found, broken_at=max(head.seq, seq))
