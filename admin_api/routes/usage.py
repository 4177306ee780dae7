"""/api/v1/usage"""

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import PlainTextResponse

from admin_api.access.principals import CurrentPrincipal
from admin_api.control_plane import Plane
from admin_api.http.pagination import PagedSums
from admin_api.http.problems import invalid
from admin_api.operations import usage_reports
from admin_api.operations.usage_reports import GroupBy, Question, Usage, UsageFilter
from contracts.subjects import Provider
from contracts.wire import ModelName, Token

router = APIRouter(prefix="/api/v1/usage", tags=["usage"])

_CSV = "text/csv"


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"


@router.get("", response_model=Usage, responses={200: {"content": {_CSV: {"schema": {"type": "string"}}}}})
async def get_usage(
    plane: Plane,
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
    only = UsageFilter(tenant=caller.scope(tenant), provider=provider, model=model, agent=agent)
    question = Question(usage_reports.days(first, last), _groups(group_by), only)
    if wanted is Format.CSV or (wanted is None and _CSV in accept):
        return PlainTextResponse(await usage_reports.to_csv(plane.database, question), media_type=_CSV)
    return await usage_reports.summarise(plane.database, question, paging=paging)


def _groups(text: str) -> list[GroupBy]:
    """Raises a 422 problem."""
    try:
        return list(dict.fromkeys(GroupBy(part.strip()) for part in text.split(",")))
    except ValueError as exc:
        raise invalid("group_by", f"is one or several of {', '.join(GroupBy)}, separated by commas") from exc
