"""Alerts: what the fleet tells the admins of a tenant, until somebody acknowledges it."""

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer
from sqlalchemy import ColumnElement, func, select, update

from admin_api.access.principals import Principal
from admin_api.database import Database
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import not_found
from contracts.usage import plain_decimal
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import alerts

Usd = Annotated[Decimal, PlainSerializer(plain_decimal)]


class State(StrEnum):
    """Two pairs: whether somebody has seen it, and whether its condition lasts."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    UNRESOLVED = "unresolved"
    RESOLVED = "resolved"


class AlertView(BaseModel):
    id: uuid.UUID
    tenant: str
    kind: str
    about: str
    """A provider, `provider/model` or `provider/endpoint`; empty: all of the tenant."""
    window_start: datetime
    """It is raised once for each window: a day, or ten minutes."""
    day: date
    threshold_usd: Usd | None
    amount_usd: Usd | None
    threshold: float | None
    """A share of attempts, or seconds, by kind."""
    measured: float | None
    message: str
    created_at: datetime
    resolved_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    """`bootstrap`, or `token:` and the token's id."""


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts are wanted; a field that is None wants any."""

    tenant: str | None = None
    kind: str | None = None
    about: str | None = None
    states: frozenset[State] = frozenset()
    """Every one of them must hold."""


async def page(database: Database, wanted: AlertFilter, *, caller: Principal, paging: Paging) -> Page[AlertView]:
    """Those of the wanted alerts that the caller sees, the newest first. Raises 403, 422."""
    columns = alerts.c
    query = select(alerts)
    if (tenant := caller.scope(wanted.tenant)) is not None:
        query = query.where(columns.tenant == tenant)
    if wanted.kind is not None:
        query = query.where(columns.kind == wanted.kind)
    if wanted.about is not None:
        query = query.where(columns.about == wanted.about)
    query = query.where(*map(_is, wanted.states))
    keys = [columns.created_at, columns.id]
    async with database.transaction() as connection:
        return await read_page(connection, query, keys=keys, paging=paging, view=view, newest_first=True)


async def acknowledge(database: Database, alert_id: uuid.UUID, *, caller: Principal, origin: Origin) -> AlertView:
    """Notes who saw it and when; who came first stays. Raises 403, 404."""
    async with database.transaction() as connection:
        old = (await connection.execute(select(alerts).where(alerts.c.id == alert_id).with_for_update())).first()
        if old is None:
            raise not_found(f"there is no alert {alert_id}")
        caller.must_change(old.tenant)
        if old.acknowledged_at is not None:
            return view(old)
        statement = (
            update(alerts)
            .where(alerts.c.id == alert_id)
            .values(acknowledged_at=func.now(), acknowledged_by=caller.name)
            .returning(*alerts.c)
        )
        acknowledged = view((await connection.execute(statement)).one())
        before, after = view(old).model_dump(mode="json"), acknowledged.model_dump(mode="json")
        change = Change("alert.acknowledge", "alert", str(alert_id), old.tenant, before=before, after=after)
        await audit.record(connection, change, origin)
    return acknowledged


def _is(state: State) -> ColumnElement[bool]:
    match state:
        case State.OPEN:
            return alerts.c.acknowledged_at.is_(None)
        case State.ACKNOWLEDGED:
            return alerts.c.acknowledged_at.is_not(None)
        case State.UNRESOLVED:
            return alerts.c.resolved_at.is_(None)
        case State.RESOLVED:
            return alerts.c.resolved_at.is_not(None)


def view(row: Any) -> AlertView:
    return AlertView.model_validate(row, from_attributes=True)
