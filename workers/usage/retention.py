"""The job that looks after the days: partitions made ahead, and dropped when their events are old enough.

Roll-ups stay. Those by agent are folded when their events go: agents can be as many as requests, so of each tenant and
day the most expensive ones stay as they are, and the rest become one, named `OTHERS`.
"""

import logging
from datetime import date, timedelta

from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.wire import utc_now
from migrations.outages import DatabaseUnavailable, outages_as_unavailable
from migrations.schema import llm_usage_retention
from runtime.tasks import every
from workers.usage import partitions
from workers.usage.entries import Amounts
from workers.usage.partitions import Partitions

log = logging.getLogger(__name__)

EVERY_S = 900.0
KEPT_AGENTS = 1000
"""How many agents of a tenant and day keep a row of their own when the day's events are dropped."""
OTHERS = "*"
"""The agent that the others become. No agent can have this name: it is no token."""
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
"""A drop waits for whoever reads the events, and everybody else waits behind it: rather not for long."""


async def keep(engine: AsyncEngine, *, retention_days: int | None, every_s: float = EVERY_S) -> None:
    """Runs for ever; several consumers may do it at once. Without `retention_days` events are kept for ever."""

    async def look_after() -> None:
        with outages_as_unavailable():
            await Partitions(engine).ensure()
            if retention_days is not None:
                await drop(engine, before=utc_now().date() - timedelta(days=retention_days))

    await every(every_s, look_after, log=log, failure_event="usage_retention_failed", expected=(DatabaseUnavailable,))


async def drop(engine: AsyncEngine, *, before: date, kept_agents: int = KEPT_AGENTS) -> list[date]:
    """Drops the events of the days before that one, and returns these days. Nothing is booked on them any more."""
    async with engine.begin() as connection:
        await partitions.lock(connection)
        old = {day: name for day, name in (await partitions.days(connection)).items() if day < before}
        if old:
            # First of all, so that no other consumer books on a day whose ids are about to be forgotten.
            added = insert(llm_usage_retention).values(kept_from=before)
            latest = func.greatest(llm_usage_retention.c.kept_from, added.excluded.kept_from)
            await connection.execute(added.on_conflict_do_update(index_elements=["single"], set_={"kept_from": latest}))
    for day, name in old.items():
        async with engine.begin() as connection:
            await connection.execute(text(_LOCK_TIMEOUT))
            await partitions.lock(connection)
            await connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
            await connection.execute(_FOLD, {"day": day, "kept": kept_agents, "others": OTHERS})
        log.info("usage_events_dropped", extra={"day": day.isoformat()})
    return list(old)


_FOLD = text(f"""
    WITH ranked AS (
        SELECT tenant, agent, row_number() OVER (
            PARTITION BY tenant ORDER BY sum(total_cost) DESC, sum(request_count) DESC, agent) AS place
        FROM llm_agent_usage WHERE date = :day AND agent <> :others GROUP BY tenant, agent
    ), folded AS (
        DELETE FROM llm_agent_usage AS row USING ranked
        WHERE row.date = :day AND row.tenant = ranked.tenant AND row.agent = ranked.agent AND ranked.place > :kept
        RETURNING row.*
    )
    INSERT INTO llm_agent_usage (date, tenant, agent, provider, model, {", ".join(Amounts._fields)})
    SELECT date, tenant, :others, provider, model, {", ".join(f"sum({name})" for name in Amounts._fields)}
    FROM folded GROUP BY date, tenant, provider, model
""")  # noqa: S608 - names of this program
