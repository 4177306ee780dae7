"""Tenants: their limits, budgets, aliases, default fallbacks and own prices.

Limits, budgets and prices are the operator's, because they protect the others and the bill. The operator may let a
tenant lower its own limits and budget; both values are kept, and the lower one is in force. What is left is the
tenant's: aliases, fallbacks, and whom to warn of which cost.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, Field, JsonValue, PlainSerializer
from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.access.principals import Principal, Role
from admin_api.database import Database
from admin_api.http.bodies import Body, at_most
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import conflict, forbidden, invalid, not_found
from admin_api.notices.settings import Email
from admin_api.publishing import worker_config
from admin_api.publishing.config_publisher import ConfigPublisher
from admin_api.publishing.worker_config import LIMITS
from contracts.providers import Limits, Price
from contracts.requests import MAX_KEEP_S
from contracts.usage import plain_decimal
from contracts.wire import ModelName, Token, utc_now
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import llm_provider_usage, tenants

Usd = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=10), PlainSerializer(plain_decimal)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
PositiveUsd = Annotated[Usd, Field(gt=0)]
PositiveCount = Annotated[Count, Field(gt=0)]

THE_OPERATORS = ("daily_budget_usd", "prices", "may_lower", "max_keep_s")
"""Besides `limits`, what only an admin may change."""
_ALIASES_CHARS = 64 * 1024
_MOST_PRICES = 5000
"""So many can be sent with every rate of theirs: 35,000 values and 0.9 MB, of 50,000 and 1 MiB."""
_ADDING = int.from_bytes(b"tenants")
"""The advisory lock of those who add a tenant."""


def _nameable(slug: str) -> str:
    """Tenants' names are parts of file names, command lines and environment variables."""
    if slug.startswith("-") or not any(letter.isalnum() for letter in slug):
        raise ValueError("must not begin with - and must have a letter or digit")
    return slug


def _not_too_long(aliases: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Every change of a tenant leaves them twice in the audit log."""
    if sum(len(name) + sum(map(len, models)) for name, models in aliases.items()) > _ALIASES_CHARS:
        raise ValueError(f"must have at most {_ALIASES_CHARS} characters in all")
    return aliases


Aliases = Annotated[
    dict[ModelName, Annotated[tuple[ModelName, ...], Field(max_length=64, fail_fast=True)]],
    Field(max_length=1000),
    at_most(1000),
    AfterValidator(_not_too_long),
]


class LimitsChange(Body):
    """Null: the environment's default. 0: no limit. What is left out stays as it is."""

    requests_per_minute: Count | None = None
    requests_per_day: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_day: Count | None = None


class TenantParts(Body):
    """Any part of a tenant. Null: the default. Left out: unchanged."""

    limits: LimitsChange | None = None
    daily_budget_usd: Usd | None = None
    daily_cost_alert_usd: Usd | None = None
    aliases: Aliases | None = None
    fallbacks: Annotated[tuple[ModelName, ...], Field(max_length=16)] | None = None
    alert_emails: Annotated[tuple[Email, ...], Field(max_length=20)] | None = None
    """Who gets the tenant's alerts by e-mail."""
    prices: Annotated[dict[ModelName, Price], Field(max_length=_MOST_PRICES), at_most(_MOST_PRICES)] | None = None
    may_lower: bool | None = None
    """Whether the tenant's own admins may set `lowered`; null: false."""
    max_keep_s: Annotated[int, Field(ge=0, le=MAX_KEEP_S)] | None = None
    """The longest time for which the ends of the tenant's requests are kept, in seconds; 0: without their content."""


class Lowered(Body):
    """What a tenant has lowered for itself. What is null, or left out, is as the operator set it."""

    requests_per_minute: PositiveCount | None = None
    requests_per_day: PositiveCount | None = None
    tokens_per_minute: PositiveCount | None = None
    tokens_per_day: PositiveCount | None = None
    daily_budget_usd: PositiveUsd | None = None


class NewTenant(TenantParts):
    slug: Annotated[Token, AfterValidator(_nameable)]


class TenantChange(TenantParts):
    slug: Token | None = Field(default=None, description="A tenant keeps its slug; if given, it must be the same.")
    lowered: Lowered | None = Field(
        default=None,
        description="Replaced as a whole; null: nothing is lowered. A tenant_admin may set it where may_lower is true.",
    )


class Tenant(BaseModel):
    slug: str
    limits: Limits
    daily_budget_usd: Usd | None
    daily_cost_alert_usd: Usd | None
    aliases: dict[str, list[str]]
    fallbacks: list[str]
    alert_emails: list[str]
    prices: dict[str, dict[str, JsonValue]]
    may_lower: bool = Field(default=False, exclude_if=lambda may: not may)
    max_keep_s: int | None = Field(default=None, exclude_if=lambda most: most is None)
    lowered: Lowered | None = Field(default=None, exclude_if=lambda lowered: lowered is None)
    """What is in force in place of the operator's values, as long as `may_lower` is true."""


async def add(database: Database, new: NewTenant, *, publisher: ConfigPublisher, origin: Origin) -> Tenant:
    """Adds a tenant; the route lets admins through only. Raises a 409 problem when the slug is taken, or reads like
    another one where case and signs do not count, as in environment variables."""
    async with database.transaction() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(_ADDING)))
        same = func.replace(func.lower(tenants.c.slug), "-", "_") == new.slug.lower().replace("-", "_")
        like = await connection.scalar(select(tenants.c.slug).where(same, tenants.c.slug != new.slug).limit(1))
        if like is not None:
            raise conflict(f"there is a tenant {like}; names must differ in more than case, - and _")
        row = (
            await connection.execute(
                postgresql.insert(tenants)
                .values(slug=new.slug, **_columns(new))
                .on_conflict_do_nothing()
                .returning(*tenants.c)
            )
        ).first()
        if row is None:
            raise conflict(f"the tenant {new.slug} exists; change it with PUT /api/v1/tenants/{new.slug}")
        added = view(row)
        await audit.record(
            connection,
            Change("tenant.add", "tenant", new.slug, new.slug, before=None, after=added.model_dump(mode="json")),
            origin,
        )
    await publisher.publish(worker_config.tenant(row))
    return added


async def change(
    database: Database,
    slug: str,
    wanted: TenantChange,
    *,
    publisher: ConfigPublisher,
    caller: Principal,
    origin: Origin,
) -> Tenant:
    """Changes what is given. Raises 403, 404, 422."""
    caller.must_change(slug)
    if wanted.slug not in (None, slug):
        raise invalid("slug", "a tenant keeps its slug")
    async with database.transaction() as connection:
        old = await locked(connection, slug)
        values = {name: value for name, value in _columns(wanted).items() if value != getattr(old, name)}
        if not values:
            return view(old)
        if caller.role is not Role.ADMIN:
            _must_be_the_tenants(values, wanted)
            _must_lower(values.get("lowered", {}), old)
        if not worker_config.in_force(old, "daily_budget_usd") and _has_budget(old, values):
            values |= await _budget_start(connection, slug, revision=old.revision + 1)
        row = (
            await connection.execute(
                update(tenants)
                .where(tenants.c.slug == slug)
                .values(**values, revision=tenants.c.revision + 1, updated_at=func.now())
                .returning(*tenants.c)
            )
        ).one()
        changed = view(row)
        await audit.record(
            connection,
            Change(
                "tenant.change",
                "tenant",
                slug,
                slug,
                before=view(old).model_dump(mode="json"),
                after=changed.model_dump(mode="json"),
            ),
            origin,
        )
    await publisher.publish(worker_config.tenant(row))
    return changed


async def one(database: Database, slug: str, *, caller: Principal) -> Tenant:
    """The tenant with that slug. Raises 403, 404."""
    caller.must_see(slug)
    async with database.transaction() as connection:
        row = (await connection.execute(select(tenants).where(tenants.c.slug == slug))).first()
    if row is None:
        raise unknown(slug)
    return view(row)


async def page(database: Database, *, caller: Principal, paging: Paging) -> Page[Tenant]:
    """The tenants that the caller sees, by slug."""
    query = select(tenants)
    if (only := caller.scope(None)) is not None:
        query = query.where(tenants.c.slug == only)
    async with database.transaction() as connection:
        return await read_page(connection, query, keys=[tenants.c.slug], paging=paging, view=view)


async def locked(connection: AsyncConnection, slug: str) -> Row[Any]:
    """The tenant, locked until the transaction's end against other changes of it or of what belongs to it.

    Raises a 404 problem.
    """
    # NO KEY UPDATE: rows of other tables that refer to the tenant can still be added, as usage is all the time.
    query = select(tenants).where(tenants.c.slug == slug).with_for_update(key_share=True)
    row = (await connection.execute(query)).first()
    if row is None:
        raise unknown(slug)
    return row


def unknown(slug: str) -> Exception:
    return not_found(f"there is no tenant {slug}; add it with POST /api/v1/tenants")


def view(row: Any) -> Tenant:
    return Tenant(
        slug=row.slug,
        limits=Limits(**{name: getattr(row, name) for name in LIMITS}),
        daily_budget_usd=row.daily_budget_usd,
        daily_cost_alert_usd=row.daily_cost_alert_usd,
        aliases=row.aliases,
        fallbacks=row.fallbacks,
        alert_emails=row.alert_emails,
        prices=row.prices,
        may_lower=row.may_lower,
        max_keep_s=row.max_keep_s,
        lowered=Lowered.model_validate(row.lowered) if row.lowered else None,
    )


def _columns(wanted: TenantParts) -> dict[str, Any]:
    """The columns that `wanted` sets."""
    given = wanted.model_fields_set
    columns: dict[str, Any] = {
        name: getattr(wanted, name)
        for name in ("daily_budget_usd", "daily_cost_alert_usd", "max_keep_s")
        if name in given
    }
    if "limits" in given:
        # Null as a whole puts every limit back to its default; an object sets those that it names.
        limits = wanted.limits
        columns |= (
            dict.fromkeys(LIMITS)
            if limits is None
            else {name: getattr(limits, name) for name in limits.model_fields_set}
        )
    if "aliases" in given:
        columns["aliases"] = {name: list(models) for name, models in (wanted.aliases or {}).items()}
    if "fallbacks" in given:
        columns["fallbacks"] = list(wanted.fallbacks or ())
    if "alert_emails" in given:
        columns["alert_emails"] = list(wanted.alert_emails or ())
    if "may_lower" in given:
        columns["may_lower"] = bool(wanted.may_lower)
    if isinstance(wanted, TenantChange) and "lowered" in given:
        columns["lowered"] = {} if wanted.lowered is None else wanted.lowered.model_dump(mode="json", exclude_none=True)
    if "prices" in given:
        columns["prices"] = {
            model: _plain(price.model_dump(exclude_none=True)) for model, price in (wanted.prices or {}).items()
        }
    return columns


def _plain(value: Any) -> Any:
    """A price, or a part of it, as JSON. Decimals are plain strings: JSON's numbers would round them."""
    match value:
        case Decimal():
            return plain_decimal(value)
        case dict():
            return {name: _plain(part) for name, part in cast("dict[str, Any]", value).items()}
        case tuple():
            return [_plain(part) for part in cast("tuple[Any, ...]", value)]
        case _:
            return value


def _must_be_the_tenants(values: Mapping[str, Any], wanted: TenantChange) -> None:
    """Raises a 403 problem where `values`, what would not stay as it is, has what is the operator's."""
    fields = {name for name in THE_OPERATORS if name in values}
    fields |= {"limits" if wanted.limits is None else f"limits.{name}" for name in LIMITS if name in values}
    if fields:
        detail = f"{', '.join(sorted(fields))}: the operator sets these, with the role admin; see may_lower and lowered"
        raise forbidden(detail, fields=sorted(fields))


def _must_lower(lowered: Mapping[str, Any], tenant: Any) -> None:
    """Raises a 403 problem for values that the tenant may not set, or that are above its operator's.

    An operator who changes its own value may leave a lowered one above it, which then counts no more.
    """
    if lowered and not tenant.may_lower:
        raise forbidden("lowered: the operator does not let this tenant set it; see may_lower", fields=["lowered"])
    above = [f"lowered.{name}" for name, value in lowered.items() if not _is_lower(tenant, name, value)]
    if above:
        raise forbidden(f"{', '.join(above)}: must be at most what the operator has set", fields=above)


def _is_lower(tenant: Any, name: str, value: Any) -> bool:
    operators = getattr(tenant, name)
    if operators is None:
        return name not in worker_config.WITH_DEFAULT
    return not operators or Decimal(value) <= operators


def _has_budget(old: Row[Any], values: Mapping[str, Any]) -> bool:
    """Whether the tenant has a budget once it has these values."""
    names = ("daily_budget_usd", "may_lower", "lowered")
    after = SimpleNamespace(**{name: values.get(name, getattr(old, name)) for name in names})
    return bool(worker_config.in_force(after, "daily_budget_usd"))


async def _budget_start(connection: AsyncConnection, slug: str, *, revision: int) -> dict[str, Any]:
    """The columns that make a budget which is set in the middle of a day count what was spent before."""
    today = utc_now().date()
    spent = await connection.execute(
        select(func.coalesce(func.sum(llm_provider_usage.c.total_cost), 0)).where(
            llm_provider_usage.c.tenant == slug, llm_provider_usage.c.date == today
        )
    )
    return {"budget_day": today, "budget_spent_usd": spent.scalar_one(), "budget_revision": revision}
