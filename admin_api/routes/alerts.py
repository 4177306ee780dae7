"""/api/v1/alerts"""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from admin_api.access.principals import AuditOrigin, CurrentPrincipal, CurrentWriter
from admin_api.dependencies import Db
from admin_api.http.pagination import Page, Paged
from admin_api.http.problems import api_problems
from admin_api.operations import alerts
from admin_api.operations.alerts import AlertFilter, AlertView, State
from contracts.wire import Token

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"])


@router.get("", responses=api_problems(422))
async def list_alerts(
    database: Db,
    caller: CurrentPrincipal,
    paging: Paged,
    tenant: Annotated[Token | None, Query()] = None,
    kind: Annotated[Token | None, Query()] = None,
    about: Annotated[str | None, Query(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")] = None,
    state: Annotated[list[State] | None, Query(max_length=len(State))] = None,
) -> Page[AlertView]:
    """The alerts that the caller may see, the newest first. `state` may be given several times: all must hold."""
    wanted = AlertFilter(tenant=tenant, kind=kind, about=about, states=frozenset(state or ()))
    return await alerts.page(database, wanted, caller=caller, paging=paging)


@router.post("/{alert_id}/acknowledge", responses=api_problems(404, 422))
async def acknowledge_alert(database: Db, caller: CurrentWriter, origin: AuditOrigin, alert_id: uuid.UUID) -> AlertView:
    """Notes who acknowledged the alert, and when. Once is enough: later calls change nothing."""
    return await alerts.acknowledge(database, alert_id, caller=caller, origin=origin)
