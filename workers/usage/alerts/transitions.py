"""Alerts as rows: raised once for each condition and window, resolved once, each with its notice in the outbox."""

import uuid
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.notices import ALERT_KINDS, Alert, AlertNotice, NoticeKind
from migrations import outbox
from migrations.schema import alerts
from workers.usage.alerts.conditions import DAILY, Condition, Verdict

_SOURCE = "/fleet/usage"

_Transition = Literal["llm.v1.alert.raised", "llm.v1.alert.resolved"]


async def unresolved(connection: AsyncConnection) -> dict[Condition, uuid.UUID]:
    """The ids of the alerts that were raised and not resolved, by what they are about."""
    columns = alerts.c
    known = columns.resolved_at.is_(None), columns.kind.in_(ALERT_KINDS)
    rows = await connection.execute(
        select(columns.id, columns.tenant, columns.kind, columns.about, columns.day).where(*known)
    )
    return {
        Condition(row.tenant, NoticeKind(row.kind), row.about, day=row.day if row.kind in DAILY else None): row.id
        for row in rows
    }


async def raise_(connection: AsyncConnection, verdict: Verdict, *, now: datetime) -> bool:
    """Writes the alert and its notice. Returns False when that of this condition and window is there already."""
    condition = verdict.condition
    values = {
        "id": uuid.uuid4(),
        "tenant": condition.tenant,
        "kind": condition.kind,
        "about": condition.about,
        "window_start": verdict.window_start,
        "day": verdict.window_start.date(),
        "threshold_usd": verdict.threshold_usd,
        "amount_usd": verdict.amount_usd,
        "threshold": verdict.threshold,
        "measured": verdict.measured,
        "message": verdict.message,
        "created_at": now,
    }
    statement = insert(alerts).values(values).on_conflict_do_nothing()
    row = (await connection.execute(statement.returning(*alerts.c))).first()
    if row is not None:
        await outbox.append(connection, _notice(row, "llm.v1.alert.raised", now=now))
    return row is not None


async def resolve(connection: AsyncConnection, alert_id: uuid.UUID, *, now: datetime) -> None:
    """Ends the alert and writes the notice of it, unless somebody else did so before."""
    statement = update(alerts).where(alerts.c.id == alert_id, alerts.c.resolved_at.is_(None)).values(resolved_at=now)
    row = (await connection.execute(statement.returning(*alerts.c))).first()
    if row is not None:
        await outbox.append(connection, _notice(row, "llm.v1.alert.resolved", now=now))


def _notice(row: Any, what: _Transition, *, now: datetime) -> AlertNotice:
    """The notice of a transition. Its id follows from the alert and the transition, so that there is one of each."""
    return AlertNotice(
        id=uuid.uuid5(row.id, what),
        source=_SOURCE,
        subject=str(row.id),
        time=now,
        tenant=row.tenant,
        type=what,
        data=Alert.model_validate(row, from_attributes=True),
    )
