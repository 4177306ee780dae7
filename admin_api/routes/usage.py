"""/api/v1/usage"""

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import PlainTextResponse

from admin_api.access.principals import CurrentPrincipal
from admin_api.dependencies import Db
from admin_api.http.pagination import PagedSums
from admin_api.http.problems import api_problems
from admin_api.operations import usage_reports
from admin_api.operations.usage_reports import Usage, UsageFilter
from contracts.subjects import Provider
from contracts.wire import ModelName, Token

router = APIRouter(prefix="/api/v1/usage", tags=["usage"])

_CSV = "text/csv"


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"


@router.get(
    "", response_model=Usage, responses={200: {"content": {_CSV: {"schema": {"type": "string"}}}}, **api_problems(422)}
)
async def get_usage(
    database: Db,
    caller: CurrentPrincipal,
    paging: PagedSums,
    group_by: Annotated[
        str, Query(description="One or several of day, hour, model, provider, tenant, agent; hour goes without agent.")
    ] = "day",
    first: Annotated[date | None, Query(alias="from")] = None,
    last: Annotated[date | None, Query(alias="to")] = None,
    tenant: Annotated[Token | None, Query()] = None,
    provider: Annotated[Provider | None, Query()] = None,
    model: Annotated[ModelName | None, Query()] = None,
    agent: Annotated[Token | Literal["*"] | None, Query()] = None,
    wanted: Annotated[Format | None, Query(alias="format")] = None,
    accept: Annotated[str, Header()] = "",
) -> Usage | Response:
    """What was used, and what it cost. Both days included; the last 30 days unless said otherwise. As CSV it comes
    whole, without pages."""
    only = UsageFilter(tenant=tenant, provider=provider, model=model, agent=agent)
    question = usage_reports.asked_by(caller, only, group_by=group_by, first=first, last=last)
    if wanted is Format.CSV or (wanted is None and _CSV in accept):
        return PlainTextResponse(await usage_reports.to_csv(database, question), media_type=_CSV)
    return await usage_reports.summarise(database, question, paging=paging)
