"""What conditions are judged by, read from roll-ups: never from the events."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Numeric, Table, and_, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.notices import NoticeKind
from migrations.schema import alert_windows, latency_days, llm_provider_usage, tenants
from workers.usage.alerts.alert_counts import WINDOW_S, TenantDay
from workers.usage.alerts.conditions import (
    LATENCIES,
    LEAST_BASELINE,
    P95,
    Health,
    Latency,
    ModelKey,
    ProviderKey,
    Spending,
    window_of,
)
from workers.usage.alerts.sketch import quantile, total
from workers.usage.alerts.windows import BASELINE_DAYS
from workers.usage.arrays import given, parameters

_WINDOW = timedelta(seconds=WINDOW_S)


async def spending(connection: AsyncConnection, of: Collection[TenantDay]) -> list[Spending]:
    """What was spent on each of these days, from the ledger's own roll-up: so a correction of the bill counts too."""
    if not of:
        return []
    usage = llm_provider_usage.c
    asked = given([usage.tenant, usage.date])
    query = (
        select(
            asked.c.tenant,
            asked.c.date,
            func.coalesce(func.sum(usage.total_cost), 0),
            tenants.c.daily_cost_alert_usd,
            _budget_in_force(),
        )
        .select_from(asked)
        .outerjoin(llm_provider_usage, and_(usage.tenant == asked.c.tenant, usage.date == asked.c.date))
        .outerjoin(tenants, tenants.c.slug == asked.c.tenant)
        .group_by(asked.c.tenant, asked.c.date, tenants.c.slug)
    )
    rows = await connection.execute(query, parameters(("tenant", "date"), of))
    return [Spending(*row) for row in rows]


def _budget_in_force() -> ColumnElement[Any]:
    """A tenant's budget, or the lower one that it has set itself, as admin_api.publishing.worker_config tells workers.

    Null and 0 are no budget.
    """
    own, lowered = tenants.c.daily_budget_usd, cast(tenants.c.lowered["daily_budget_usd"].astext, Numeric)
    may = and_(tenants.c.may_lower, lowered.is_not(None))
    return case((may, func.least(func.nullif(own, 0), lowered)), else_=own)


async def health(connection: AsyncConnection, of: Collection[ProviderKey], *, now: datetime) -> list[Health]:
    """How attempts went, one for each provider of `of`, also where there were no attempts."""
    if not of:
        return []
    windows = alert_windows.c
    asked = given([windows.tenant, windows.provider])
    recent = windows.start >= window_of(now) - _WINDOW
    query = (
        select(
            asked.c.tenant,
            asked.c.provider,
            func.coalesce(func.sum(windows.requests).filter(recent), 0),
            func.coalesce(func.sum(windows.errors).filter(recent), 0),
            func.max(windows.refused_at),
            func.max(windows.succeeded_at),
        )
        .select_from(asked)
        .outerjoin(alert_windows, and_(windows.tenant == asked.c.tenant, windows.provider == asked.c.provider))
        .group_by(asked.c.tenant, asked.c.provider)
    )
    rows = await connection.execute(query, parameters(("tenant", "provider"), of))
    return [
        Health(tenant, provider, int(attempts), int(errors), refused, succeeded)
        for tenant, provider, attempts, errors, refused, succeeded in rows
    ]


class Usual:
    """How fast models were in the days before today: their 95th percentiles, kept for an hour."""

    def __init__(self) -> None:
        self._read_in: datetime | None = None
        self._known: dict[ModelKey, dict[NoticeKind, float]] = {}

    async def of(
        self, connection: AsyncConnection, models: Collection[ModelKey], *, now: datetime
    ) -> dict[ModelKey, dict[NoticeKind, float]]:
        """The percentiles in seconds, of `models` at least; a kind is missing that had too few attempts to tell."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour != self._read_in:
            self._known.clear()
            self._read_in = hour
        today = now.date()
        before = latency_days.c.day.between(today - timedelta(days=BASELINE_DAYS), today - timedelta(days=1))
        new = [model for model in models if model not in self._known]
        found = await _histograms(connection, latency_days, new, before)
        for model in new:
            together = found.get(model, {})
            enough = {kind: counts for kind, counts in together.items() if sum(counts) >= LEAST_BASELINE}
            self._known[model] = {kind: quantile(counts, P95) for kind, counts in enough.items()}
        return self._known


async def latency(
    connection: AsyncConnection, of: Collection[ModelKey], usual: Usual, *, now: datetime
) -> list[Latency]:
    """Two for each model: of first tokens, and of whole answers."""
    recent = await _histograms(connection, alert_windows, of, alert_windows.c.start >= window_of(now) - _WINDOW)
    before = await usual.of(connection, of, now=now)
    return [
        Latency(*model, kind, recent.get(model, {}).get(kind, ()), before[model].get(kind))
        for model in of
        for kind in LATENCIES
    ]


async def _histograms(
    connection: AsyncConnection, table: Table, of: Collection[ModelKey], when: ColumnElement[bool]
) -> dict[ModelKey, dict[NoticeKind, list[int]]]:
    """The sums of the rows of each model; a model without rows is missing."""
    if not of:
        return {}
    columns = table.c
    asked = given([columns.tenant, columns.provider, columns.model])
    same = (columns[name] == asked.c[name] for name in ModelKey._fields)
    query = select(*(columns[name] for name in (*ModelKey._fields, *LATENCIES.values()))).join(asked, and_(*same))
    found: defaultdict[ModelKey, list[Any]] = defaultdict(list)
    for row in await connection.execute(query.where(when), parameters(ModelKey._fields, of)):
        found[ModelKey(row.tenant, row.provider, row.model)].append(row)
    return {
        model: {kind: total(getattr(row, name) for row in rows) for kind, name in LATENCIES.items()}
        for model, rows in found.items()
    }
