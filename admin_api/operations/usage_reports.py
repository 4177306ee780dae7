"""What was used and what it cost, from the roll-ups: by day, by hour, or by agent."""

import csv
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field, field_serializer
from sqlalchemy import Row, Select, Table, func, select, text

from admin_api.access.principals import Principal
from admin_api.configuration import providers
from admin_api.database import Database
from admin_api.http.pagination import Paging, read_page
from admin_api.http.problems import invalid
from contracts.usage import plain_decimal
from contracts.wire import optional, utc_now
from migrations.schema import llm_agent_usage, llm_hourly_usage, llm_provider_usage

_DEFAULT_DAYS = 30
_MAX_DAYS = 3660
_MAX_ROWS = 100_000
_LAST_HOUR = timedelta(hours=23)
_AS_ASKED = text("SET LOCAL plan_cache_mode = force_custom_plan")
"""After five reports of a kind PostgreSQL would plan for any period, and take half as long again."""


class GroupBy(StrEnum):
    DAY = "day"
    HOUR = "hour"
    MODEL = "model"
    PROVIDER = "provider"
    TENANT = "tenant"
    AGENT = "agent"

    @property
    def column(self) -> str:
        """What the group is called in the tables and in CSV."""
        return "date" if self is GroupBy.DAY else self.value


class Totals(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    total_cost: Decimal = Field(
        default=Decimal(0),
        description="USD, as a decimal string, without the attempts that have no known price; null when none has one.",
    )
    unpriced_count: int = Field(default=0, description="Attempts that have no known price.")
    request_count: int = 0
    error_count: int = 0

    @field_serializer("total_cost")
    def _never_free_for_lack_of_a_price(self, amount: Decimal) -> str | None:
        return None if self.unpriced_count == self.request_count > 0 else plain_decimal(amount)


class UsageItem(Totals):
    """The fields before the sums are those that were grouped by."""

    day: date | None = optional(serialization_alias="date")
    hour: datetime | None = optional(description="Its beginning.")
    model: str | None = optional()
    provider: str | None = optional()
    tenant: str | None = optional()
    agent: str | None = optional(description="`*`: those that were too many to be kept apart.")


class Usage(BaseModel):
    items: list[UsageItem]
    totals: Totals = Field(description="Of all pages.")
    next: str | None = Field(
        default=None, description="Give it as `cursor` for the page after this one; null: the last one."
    )


@dataclass(frozen=True, slots=True)
class Days:
    """A period of UTC days, both included."""

    first: date
    last: date


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which usage is wanted; a field that is None wants any."""

    tenant: str | None = None
    provider: str | None = None
    provider_id: str | None = None
    model: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a report is asked for. It says nothing of who asks: see `asked_by`."""

    days: Days
    group_by: Sequence[GroupBy]
    only: UsageFilter


def days(first: date | None, last: date | None) -> Days:
    """What `from` and `to` mean: the last 30 days unless they say more. Raises 422."""
    last = last or max(utc_now().date(), first or date.min)
    first = first or last - timedelta(days=_DEFAULT_DAYS - 1)
    if first > last:
        raise invalid("from", "must not lie after to")
    if (last - first).days > _MAX_DAYS:
        raise invalid("from", f"the period may have at most {_MAX_DAYS} days")
    return Days(first, last)


def asked_by(
    caller: Principal, wanted: UsageFilter, *, group_by: str, first: date | None, last: date | None
) -> Question:
    """What a caller asks for, narrowed to what it sees. `group_by`: values of GroupBy, separated by commas.

    Raises 403, 422.
    """
    only = replace(wanted, tenant=caller.scope(wanted.tenant))
    asked = days(first, last)
    try:
        groups = [*dict.fromkeys(GroupBy(part.strip()) for part in group_by.split(","))]
    except ValueError as exc:
        raise invalid("group_by", f"is one or several of {', '.join(GroupBy)}, separated by commas") from exc
    return Question(asked, groups, only)


async def of_provider(
    database: Database,
    provider_id: uuid.UUID,
    *,
    first: date | None,
    last: date | None,
    caller: Principal,
    paging: Paging,
) -> Usage:
    """The usage of one provider by day and model, with `first` and `last` as in `days`. Raises 403, 404, 422."""
    asked = days(first, last)
    found = await providers.one(database, provider_id, caller=caller)
    only = UsageFilter(tenant=found.tenant, provider_id=str(found.id))
    return await summarise(database, Question(asked, (GroupBy.DAY, GroupBy.MODEL), only), paging=paging)


async def summarise(database: Database, question: Question, *, paging: Paging) -> Usage:
    """One page, in the order of the groups. Raises 422 for what no roll-up tells."""
    table = _source(question)
    groups = [table.c[group.column].label(group.value) for group in question.group_by]
    query = _sums(table, question).add_columns(*groups).group_by(*groups)
    async with database.transaction() as connection:
        await connection.execute(_AS_ASKED)
        page = await read_page(connection, query, keys=groups, paging=paging, view=_item)
        if paging.cursor is None and page.next is None:
            sums = {name: sum(getattr(item, name) for item in page.items) for name in Totals.model_fields}
        else:
            # The sums over all pages, from a roll-up by day, which is smaller than one by hour.
            daily = llm_provider_usage if question.only.agent is None else llm_agent_usage
            sums = dict((await connection.execute(_sums(daily, question))).mappings().first() or {})
    return Usage(items=page.items, totals=Totals.model_validate(sums), next=page.next)


async def to_csv(database: Database, question: Question) -> str:
    """One line for each item, RFC 4180, all of them. Raises 422 when those are too many."""
    usage = await summarise(database, question, paging=Paging(limit=_MAX_ROWS))
    if usage.next:
        raise invalid("group_by", f"gives more than {_MAX_ROWS} rows; ask for a shorter period or fewer groups")
    out = io.StringIO()
    groups = [group.column for group in question.group_by]
    writer = csv.DictWriter(out, [*groups, *Totals.model_fields])
    writer.writeheader()
    for item in usage.items:
        writer.writerow({name: harmless(value) for name, value in item.model_dump(mode="json", by_alias=True).items()})
    return out.getvalue()


def _source(question: Question) -> Table:
    """The smallest roll-up that knows all that is asked for. Raises 422 when none does."""
    by_agent = GroupBy.AGENT in question.group_by or question.only.agent is not None
    by_hour = GroupBy.HOUR in question.group_by
    if by_agent and by_hour:
        raise invalid("group_by", "usage of agents is kept by day, not by hour: ask without hour, or without agent")
    if by_hour:
        return llm_hourly_usage
    return llm_agent_usage if by_agent else llm_provider_usage


def _sums(table: Table, question: Question) -> Select[Any]:
    """The sums of what a question asks for, in one row until groups are added."""
    query = select(*(func.sum(table.c[name]).label(name) for name in Totals.model_fields))
    first, last = question.days.first, question.days.last
    if table is llm_hourly_usage:
        begin, last_day = (datetime.combine(day, time(), UTC) for day in (first, last))
        query = query.where(table.c.hour.between(begin, last_day + _LAST_HOUR))
    else:
        query = query.where(table.c.date.between(first, last))
    query = query.having(func.sum(table.c.request_count) > 0)
    for name in ("tenant", "provider", "provider_id", "model", "agent"):
        if (wanted := getattr(question.only, name)) is not None:
            query = query.where(table.c[name] == wanted)
    return query


def _item(row: Row[Any]) -> UsageItem:
    fields = row._asdict()  # pyright: ignore[reportPrivateUsage] - public, and named so that no column is hidden
    return UsageItem.model_validate(fields)


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet runs: one that begins like a formula gets a quote before it.

    Model and agent names come from callers. https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
