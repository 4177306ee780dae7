"""The audit log, read: in pages, as an export, and checked for rows that were altered or removed."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, JsonValue, PlainSerializer, TypeAdapter
from sqlalchemy import Select, or_, select

from admin_api.control_plane import ControlPlane
from admin_api.database import Database
from admin_api.paging import Page, Paging, read_page
from admin_api.problems import invalid
from migrations.audit import broken_at
from migrations.schema import audit_log

_AT_ONCE = 500
_DAY = timedelta(days=1)
_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)

Digest = Annotated[bytes, PlainSerializer(bytes.hex, return_type=str)]


class AuditEntry(BaseModel):
    """One change. `hash` covers the entry and `prev_hash`, which is the hash of the tenant's change before it."""

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
    prev_hash: Digest
    hash: Digest


@dataclass(frozen=True, slots=True)
class Filter:
    """None: any. `object` is a type, an id, or `type/id`; `before` is excluded."""

    tenant: str | None = None
    actor: str | None = None
    action: str | None = None
    object: str | None = None
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """What a check found of one tenant's rows; `tenant` None: the rows that concern no single one."""

    tenant: str | None
    rows: int
    head: str
    """The hash of the last row that holds. Whoever noted it elsewhere sees later that no row was cut off at the end."""
    broken_at: int | None
    """The `seq` of the first row that was altered, or whose predecessor was altered or removed."""


def start(text: str | None) -> datetime | None:
    """What `from` means: a time, or a day's beginning in UTC. Raises a 422 problem."""
    return None if text is None else _moment("from", text, of_day=timedelta(0))


def end(text: str | None) -> datetime | None:
    """What `to` means: a time, or the end of a day, which is included. Raises a 422 problem."""
    return None if text is None else _moment("to", text, of_day=_DAY)


async def page(plane: ControlPlane, wanted: Filter, *, paging: Paging) -> Page[AuditEntry]:
    """The newest first."""
    async with plane.database.transaction() as connection:
        return await read_page(
            connection, _query(wanted), keys=[audit_log.c.seq], paging=paging, view=view, newest_first=True
        )


async def export(plane: ControlPlane, wanted: Filter) -> AsyncGenerator[str]:
    """Every entry as a line of JSON, the newest first."""
    cursor: str | None = None
    while True:
        found = await page(plane, wanted, paging=Paging(limit=_AT_ONCE, cursor=cursor))
        yield "".join(f"{entry.model_dump_json()}\n" for entry in found.items)
        if (cursor := found.next) is None:
            return


async def verify(database: Database, *, tenant: str | None = None) -> list[Chain]:
    """Checks the chain of one tenant, or every chain when None."""
    async with database.transaction() as connection:
        query = select(audit_log.c.tenant).distinct().order_by(audit_log.c.tenant.nulls_first())
        tenants = list(await connection.scalars(query)) if tenant is None else [tenant]
    return [await _verify(database, each) for each in tenants]


def view(row: Any) -> AuditEntry:
    return AuditEntry.model_validate(row, from_attributes=True)


async def _verify(database: Database, tenant: str | None) -> Chain:
    count, seq, head = 0, -1, None
    query = select(audit_log).where(audit_log.c.tenant.is_not_distinct_from(tenant)).order_by(audit_log.c.seq)
    while True:
        async with database.transaction() as connection:
            found = await connection.execute(query.where(audit_log.c.seq > seq).limit(_AT_ONCE))
            rows = [dict(row) for row in found.mappings()]
        if (broken := broken_at(tenant, rows, follows=head)) is not None:
            whole = [bytes(row["hash"]) for row in rows if row["seq"] < broken]
            return Chain(tenant, count + len(whole), _hex(whole[-1] if whole else head), broken)
        count += len(rows)
        if not rows:
            return Chain(tenant, count, _hex(head), None)
        seq, head = rows[-1]["seq"], bytes(rows[-1]["hash"])


def _query(wanted: Filter) -> Select[Any]:
    columns = audit_log.c
    query = select(audit_log)
    for column, value in ((columns.tenant, wanted.tenant), (columns.actor, wanted.actor)):
        if value is not None:
            query = query.where(column == value)
    if wanted.action is not None:
        query = query.where(columns.action == wanted.action)
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
    return query


def _moment(field: str, text: str, *, of_day: timedelta) -> datetime:
    try:
        if len(text) == len("2026-11-23"):
            return datetime.combine(date.fromisoformat(text), time(), UTC) + of_day
        return _TIME.validate_python(text).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise invalid(field, "is a day like 2026-11-23, or a time with a zone like 2026-11-23T12:00:00Z") from exc


def _hex(digest: bytes | None) -> str:
    return digest.hex() if digest is not None else ""
