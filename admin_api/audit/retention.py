"""How long the audit log is kept."""

import logging
from datetime import timedelta

from admin_api.audit import verification
from admin_api.database import Database, DatabaseUnavailable
from contracts.wire import utc_now
from migrations import audit
from migrations.audit import Origin
from runtime.tasks import every

log = logging.getLogger(__name__)

_EVERY_S = 3600
_ORIGIN = Origin(actor="retention", source="LLM_AUDIT_RETENTION_DAYS")


async def keep_pruned(database: Database, *, days: int) -> None:
    """Deletes what is older than `days`, now and every hour, until it is cancelled."""

    async def prune_now() -> None:
        await prune(database, days=days)

    await every(_EVERY_S, prune_now, log=log, failure_event="audit_not_pruned", expected=(DatabaseUnavailable,))


async def prune(database: Database, *, days: int) -> int:
    """Deletes rows that are older than `days`; returns how many. A chain that does not hold stays: it is evidence."""
    before = utc_now() - timedelta(days=days)
    gone = 0
    for chain in await verification.verify(database):
        if chain.broken_at is not None:
            log.error("audit_broken", extra={"chain": audit.chain_of(chain.tenant), "seq": chain.broken_at})
            continue
        while True:
            # Each transaction takes some rows only, so that the chain's lock is not held for long.
            async with database.transaction() as connection:
                pruned = await audit.prune(connection, chain.tenant, before=before, origin=_ORIGIN)
            if not pruned:
                break
            gone += pruned
    return gone
