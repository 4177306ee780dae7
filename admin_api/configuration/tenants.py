"""Tenants: their limits, budgets, aliases, default fallbacks and own prices."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue, PlainSerializer
from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.access.principals import Principal
from admin_api.database import Database
from admin_api.http.bodies import Body
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import conflict, invalid, not_found
from admin_api.notices.settings import Email
from admin_api.publishing import worker_config
from admin_api.publishing.config_publisher import ConfigPublisher
from admin_api.publishing.worker_config import LIMITS
from contracts.providers import Limits, Price
from contracts.usage import plain_decimal
from contracts.wire import ModelName, Token, utc_now
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import llm_provider_usage, tenants

Usd = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=10), PlainSerializer(plain_decimal)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


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
    aliases: Annotated[dict[ModelName, tuple[ModelName, ...]], Field(max_length=1000)] | None = None
    fallbacks: Annotated[tuple[ModelName, ...], Field(max_length=16)] | None = None
    alert_emails: Annotated[tuple[Email, ...], Field(max_length=20)] | None = None
    """Who gets the tenant's alerts by e-mail."""
    prices: Annotated[dict[ModelName, Price], Field(max_length=10_000)] | None = None


class NewTenant(TenantParts):
    slug: Token


class TenantChange(TenantParts):
    slug: Token | None = Field(default=None, description="A tenant keeps its slug; if given, it must be the same.")


class Tenant(BaseModel):
    slug: str
    limits: Limits
    daily_budget_usd: Usd | None
    daily_cost_alert_usd: Usd | None
    aliases: dict[str, list[str]]
    fallbacks: list[str]
    alert_emails: list[str]
    prices: dict[str, dict[str, JsonValue]]


async def add(database: Database, new: NewTenant, *, publisher: ConfigPublisher, origin: Origin) -> Tenant:
    """Adds a tenant; the route lets admins through only. Raises a 409 problem when the slug is taken."""
    async with database.transaction() as connection:
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
        if values.get("daily_budget_usd") and not old.daily_budget_usd:
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
    )


def _columns(wanted: TenantParts) -> dict[str, Any]:
    """The columns that `wanted` sets."""
    given = wanted.model_fields_set
    columns: dict[str, Any] = {
        name: getattr(wanted, name) for name in ("daily_budget_usd", "daily_cost_alert_usd") if name in given
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
    if "prices" in given:
        # Decimals as plain strings: JSON's numbers would round them.
        columns["prices"] = {
            model: {name: plain_decimal(value) for name, value in price.model_dump(exclude_none=True).items()}
            for model, price in (wanted.prices or {}).items()
        }
    return columns


async def _budget_start(connection: AsyncConnection, slug: str, *, revision: int) -> dict[str, Any]:
    """The columns that make a budget which is set in the middle of a day count what was spent before."""
    today = utc_now().date()
    spent = await connection.execute(
        select(func.coalesce(func.sum(llm_provider_usage.c.total_cost), 0)).where(
            llm_provider_usage.c.tenant == slug, llm_provider_usage.c.date == today
        )
    )
    return {"budget_day": today, "budget_spent_usd": spent.scalar_one(), "budget_revision": revision}
