"""How long the audit log is kept."""

import asyncio
import logging
from datetime import datetime, timedelta

from admin_api.audit import verification
from admin_api.database import Database, DatabaseUnavailable
from contracts.wire import utc_now
from migrations import audit
from migrations.audit import Origin

log = logging.getLogger(__name__)

_EVERY_S = 3600
_ORIGIN = Origin(actor="retention", source="LLM_AUDIT_RETENTION_DAYS")


async def keep_pruned(database: Database, *, days: int) -> None:
    """Deletes what is older than that, for ever, an hour apart."""
    while True:
        try:
            await prune(database, days=days)
        except DatabaseUnavailable as exc:
            log.warning("audit_not_pruned", extra={"error": str(exc)})
        await asyncio.sleep(_EVERY_S)


async def prune(database: Database, *, days: int) -> int:
    """Deletes rows that are older than `days`; returns how many. A chain that does not hold stays: it is evidence."""
    before = utc_now() - timedelta(days=days)
    gone = 0
    for chain in await verification.verify(database):
        if chain.broken_at is not None:
            log.error("audit_broken", extra={"chain": audit.chain_of(chain.tenant), "seq": chain.broken_at})
            continue
        while rows := await _prune_some(database, chain.tenant, before):
            gone += rows
    return gone


async def _prune_some(database: Database, tenant: str | None, before: datetime) -> int:
    async with database.transaction() as connection:
        return await audit.prune(connection, tenant, before=before, origin=_ORIGIN)
