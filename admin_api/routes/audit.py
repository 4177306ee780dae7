"""/api/v1/audit"""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from admin_api.access.principals import CurrentPrincipal
from admin_api.audit import log
from admin_api.audit.log import AuditEntry
from admin_api.dependencies import Db
from admin_api.http.pagination import Page, Paged
from admin_api.http.problems import api_problems
from contracts.wire import Token

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])

_JSON_LINES = "application/x-ndjson"

Name = Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Moment = Annotated[str, Query(description="A day (UTC), or a time with a zone.", max_length=64)]


class AuditFormat(StrEnum):
    JSON = "json"
    JSON_LINES = "jsonl"


@router.get(
    "",
    response_model=Page[AuditEntry],
    responses={200: {"content": {_JSON_LINES: {"schema": {"type": "string"}}}}, **api_problems(422)},
)
async def get_audit(
    database: Db,
    caller: CurrentPrincipal,
    paging: Paged,
    tenant: Annotated[Token | None, Query()] = None,
    actor: Name | None = None,
    action: Annotated[Name | None, Query(description="As provider.rotate.")] = None,
    about: Annotated[Name | None, Query(alias="object", description="A type, an id, or type/id.")] = None,
    first: Annotated[Moment | None, Query(alias="from")] = None,
    last: Annotated[Moment | None, Query(alias="to", description="A day is included, a time is not.")] = None,
    wanted: Annotated[AuditFormat | None, Query(alias="format")] = None,
    accept: Annotated[str, Header()] = "",
) -> Page[AuditEntry] | Response:
    """Who changed what, or was refused, the newest first. As JSON lines it comes whole, without pages."""
    chosen = log.wanted_by(caller, tenant=tenant, actor=actor, action=action, about=about, first=first, last=last)
    if wanted is AuditFormat.JSON_LINES or (wanted is None and _JSON_LINES in accept):
        return await _streamed(log.export(database, chosen))
    return await log.page(database, chosen, paging=paging)


async def _streamed(parts: AsyncGenerator[str]) -> Response:
    """Answers once the first part is there, so that an error until then is an answer of its own."""
    first = await anext(parts)

    async def all_parts() -> AsyncGenerator[str]:
        yield first
        async for part in parts:
            yield part

    return StreamingResponse(all_parts(), media_type=_JSON_LINES)
