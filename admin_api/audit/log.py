"""Reads the audit log: in pages, and as an export."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, JsonValue, PlainSerializer, TypeAdapter
from sqlalchemy import or_, select

from admin_api.access.principals import Principal
from admin_api.database import Database
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import invalid
from migrations.schema import audit_log

_AT_ONCE = 500
_DAY = timedelta(days=1)
_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)

Digest = Annotated[bytes, PlainSerializer(bytes.hex, return_type=str)]


class AuditEntry(BaseModel):
    """One change, made or refused. `hash` covers it and `prev_hash`, the hash of the tenant's entry before it."""

    seq: int
    at: datetime
    actor: str
    """`bootstrap`, or `token:` and the token's id."""
    source: str
    """The address that the change came from."""
    action: str
    object_type: str
    object_id: str
    tenant: str | None
    """Null: all tenants."""
    before: dict[str, JsonValue] | None
    after: dict[str, JsonValue] | None
    refusal: dict[str, JsonValue] | None
    """What was answered, and the change was not made; null: it was made."""
    prev_hash: Digest
    hash: Digest


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted; a field that is None wants any.

    `object` is a type, an id, or `type/id`. `since` is included, `before` is not.
    """

    tenant: str | None = None
    actor: str | None = None
    action: str | None = None
    object: str | None = None
    since: datetime | None = None
    before: datetime | None = None


def wanted_by(
    caller: Principal,
    *,
    tenant: str | None,
    actor: str | None,
    action: str | None,
    about: str | None,
    first: str | None,
    last: str | None,
) -> AuditFilter:
    """What a caller asks for, narrowed to what it sees.

    `about` is the filter's `object`; `first` and `last` are read by `start` and `end`. Raises 403, 422.
    """
    return AuditFilter(
        tenant=caller.scope(tenant),
        actor=actor,
        action=action,
        object=about,
        since=start(first),
        before=end(last),
    )


def start(text: str | None) -> datetime | None:
    """What `from` means: a time, or a day's beginning in UTC. Raises a 422 problem."""
    return None if text is None else _moment("from", text, of_day=timedelta(0))


def end(text: str | None) -> datetime | None:
    """What `to` means: a time, or the end of a day, which is included. Raises a 422 problem."""
    return None if text is None else _moment("to", text, of_day=_DAY)


async def page(database: Database, wanted: AuditFilter, *, paging: Paging) -> Page[AuditEntry]:
    """The wanted entries, the newest first."""
    columns = audit_log.c
    query = select(audit_log)
    exact = ((columns.tenant, wanted.tenant), (columns.actor, wanted.actor), (columns.action, wanted.action))
    for column, value in exact:
        if value is not None:
            query = query.where(column == value)
    if wanted.object is not None:
        kind, slash, name = wanted.object.partition("/")
        if slash:
            query = query.where(columns.object_type == kind, columns.object_id == name)
        else:
            query = query.where(or_(columns.object_type == kind, columns.object_id == kind))
    if wanted.since is not None:
        query = query.where(columns.at >= wanted.since)
    if wanted.before is not None:
        query = query.where(columns.at < wanted.before)
    async with database.transaction() as connection:
        return await read_page(connection, query, keys=[columns.seq], paging=paging, view=view, newest_first=True)


async def export(database: Database, wanted: AuditFilter) -> AsyncGenerator[str]:
    """Every wanted entry as a line of JSON, the newest first."""
    cursor: str | None = None
    while True:
        found = await page(database, wanted, paging=Paging(limit=_AT_ONCE, cursor=cursor))
        yield "".join(f"{entry.model_dump_json()}\n" for entry in found.items)
        if (cursor := found.next) is None:
            return


def view(row: Any) -> AuditEntry:
    return AuditEntry.model_validate(row, from_attributes=True)


def _moment(field: str, text: str, *, of_day: timedelta) -> datetime:
    try:
        if len(text) == len("2026-11-23"):
            return datetime.combine(date.fromisoformat(text), time(), UTC) + of_day
        return _TIME.validate_python(text).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise invalid(field, "is a day like 2026-11-23, or a time with a zone like 2026-11-23T12:00:00Z") from exc
