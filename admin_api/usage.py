"""What was used and what it cost, from the daily roll-up; by agent, from the single events."""

import csv
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainSerializer
from sqlalchemy import ColumnElement, Numeric, Select, case, func, literal, select

from admin_api import providers
from admin_api.auth import Principal
from admin_api.control_plane import ControlPlane
from admin_api.problems import invalid
from contracts.usage import Outcome, plain_decimal
from contracts.wire import optional, utc_now
from migrations.schema import llm_provider_usage, llm_usage_events

_DEFAULT_DAYS = 30
_MAX_DAYS = 3660
_MAX_ROWS = 100_000

Usd = Annotated[Decimal, PlainSerializer(plain_decimal)]


class GroupBy(StrEnum):
    DAY = "day"
    MODEL = "model"
    PROVIDER = "provider"
    TENANT = "tenant"
    AGENT = "agent"


class Totals(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    total_cost: Usd = Field(description="USD, as a decimal string; without attempts that have no known price.")
    unpriced_count: int
    request_count: int
    error_count: int


class UsageItem(Totals):
    """The fields before the sums are those that were grouped by."""

    day: date | None = optional(serialization_alias="date")
    model: str | None = optional()
    provider: str | None = optional()
    tenant: str | None = optional()
    agent: str | None = optional()


class Usage(BaseModel):
    items: list[UsageItem]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Period:
    """UTC days, both included."""

    first: date
    last: date


@dataclass(frozen=True, slots=True)
class Question:
    """`tenant`, `provider_id` None: any."""

    period: Period
    group_by: Sequence[GroupBy]
    tenant: str | None = None
    provider_id: str | None = None


def period(first: date | None, last: date | None) -> Period:
    """What `from` and `to` mean: the last 30 days unless they say more. Raises 422."""
    last = last or max(utc_now().date(), first or date.min)
    first = first or last - timedelta(days=_DEFAULT_DAYS - 1)
    if first > last:
        raise invalid("from", "must not lie after to")
    if (last - first).days > _MAX_DAYS:
        raise invalid("from", f"the period may have at most {_MAX_DAYS} days")
    return Period(first, last)


async def of_provider(plane: ControlPlane, provider_id: uuid.UUID, asked: Period, *, caller: Principal) -> Usage:
    """By day and model. Raises 403, 404."""
    found = await providers.one(plane, provider_id, caller=caller)
    return await summarise(
        plane, Question(asked, (GroupBy.DAY, GroupBy.MODEL), tenant=found.tenant, provider_id=str(found.id))
    )


async def summarise(plane: ControlPlane, question: Question) -> Usage:
    """Raises 422 when the answer would be too long."""
    async with plane.database.transaction() as connection:
        rows = (await connection.execute(_query(question).limit(_MAX_ROWS + 1))).mappings().all()
    if len(rows) > _MAX_ROWS:
        raise invalid("group_by", f"gives more than {_MAX_ROWS} rows; ask for a shorter period or fewer groups")
    items = [UsageItem(**row) for row in rows]
    return Usage(items=items, totals=_total(items))


def to_csv(usage: Usage, *, group_by: Sequence[GroupBy]) -> str:
    """One line for each item, RFC 4180."""
    out = io.StringIO()
    groups = ["date" if group is GroupBy.DAY else group.value for group in group_by]
    writer = csv.DictWriter(out, [*groups, *Totals.model_fields])
    writer.writeheader()
    for item in usage.items:
        writer.writerow({name: _harmless(value) for name, value in item.model_dump(mode="json", by_alias=True).items()})
    return out.getvalue()


def _query(question: Question) -> Select[Any]:
    """The events know the agent; everything else is in the roll-up, which stays small."""
    by_agent = GroupBy.AGENT in question.group_by
    table = llm_usage_events if by_agent else llm_provider_usage
    day = table.c.day if by_agent else table.c.date
    groups = [(day if group is GroupBy.DAY else table.c[group.value]).label(group.value) for group in question.group_by]
    sums = _sums_of_events() if by_agent else _sums_of_roll_up()
    query = (
        select(*groups, *(column.label(name) for name, column in sums.items()))
        .where(day.between(question.period.first, question.period.last))
        .group_by(*groups)
        .order_by(*groups)
    )
    if question.tenant is not None:
        query = query.where(table.c.tenant == question.tenant)
    if question.provider_id is not None:
        query = query.where(table.c.provider_id == question.provider_id)
    return query


def _sums_of_roll_up() -> Mapping[str, ColumnElement[Any]]:
    return {name: func.sum(llm_provider_usage.c[name]) for name in Totals.model_fields}


def _sums_of_events() -> Mapping[str, ColumnElement[Any]]:
    columns = llm_usage_events.c
    return {
        "prompt_tokens": func.sum(columns.input_tokens),
        "completion_tokens": func.sum(columns.output_tokens),
        "cache_read_tokens": func.sum(columns.cache_read_tokens),
        "cache_write_tokens": func.sum(columns.cache_write_tokens),
        "reasoning_tokens": func.sum(columns.reasoning_tokens),
        "total_cost": func.coalesce(func.sum(columns.cost), literal(0, Numeric)),
        "unpriced_count": func.count() - func.count(columns.cost),
        "request_count": func.count(),
        "error_count": _count(columns.outcome.in_([Outcome.FAILED, Outcome.ABANDONED])),
    }


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.count(case((condition, 1)))


def _total(items: Sequence[UsageItem]) -> Totals:
    sums: dict[str, Any] = {name: sum(getattr(item, name) for item in items) for name in Totals.model_fields}
    return Totals(**sums)


def _harmless(value: Any) -> Any:
    """Spreadsheets run cells that begin like a formula; model and agent names come from callers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
