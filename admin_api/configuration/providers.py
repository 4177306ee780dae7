"""Providers: which vendor a tenant may call, how, and with which key.

The order on a new key: seal it, write it to Vault, commit the row, publish. A crash after Vault's write leaves a key
that the next write replaces; a crash after the commit is healed by the publisher.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field, JsonValue
from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.access.principals import Principal
from admin_api.configuration import provider_keys, tenants
from admin_api.configuration.provider_keys import ApiKey, GivenKeys, KeyChanges, KeyView, NewKeys, ProviderKeys
from admin_api.database import Database
from admin_api.http.bodies import Body
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import Problem, conflict, invalid, not_found
from admin_api.publishing import worker_config
from admin_api.publishing.config_publisher import ConfigPublisher
from contracts.providers import WITHOUT_COMMON_ADDRESS, ProviderConfig
from contracts.subjects import Provider
from contracts.wire import Token
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import llm_providers
from runtime.networks import ForbiddenAddress, Network, check_base_url

_CONFIG_BYTES = 128 * 1024


class NewProvider(Body):
    tenant: Token
    provider_type: Provider
    api_key: ApiKey | None = Field(
        default=None,
        description="The default key. Required where an endpoint uses it, except for ollama and mock. Never returned.",
    )
    api_keys: NewKeys = Field(default={}, description="Further keys by name, for endpoints to use. Never returned.")
    config: ProviderConfig = ProviderConfig()
    is_default: bool = False


class ProviderChange(Body):
    """What is left out stays. `config` is replaced as a whole; `api_key` and `api_keys` rotate keys."""

    tenant: Token | None = Field(
        default=None, description="A provider keeps its tenant; if given, it must be the same."
    )
    provider_type: Provider | None = Field(default=None, description="As with tenant.")
    api_key: ApiKey | None = None
    api_keys: KeyChanges = Field(default={}, description="By name; null removes a key that no endpoint uses any more.")
    config: ProviderConfig | None = None
    is_default: bool | None = None
    is_active: bool | None = None


class ProviderView(BaseModel):
    id: uuid.UUID
    tenant: str
    provider_type: str
    config: dict[str, JsonValue]
    """As it was given."""
    is_active: bool
    is_default: bool
    key_fingerprint: str | None
    """The first 8 hex digits of the key's SHA-256."""
    key_version: int | None
    keys: list[KeyView]
    """The default one, if there is one, and all others."""
    revision: int
    """Rises with every change."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderFilter:
    """Which providers are wanted; a field that is None wants any."""

    tenant: str | None = None
    provider_type: Provider | None = None
    active: bool | None = None


async def add(
    database: Database,
    new: NewProvider,
    *,
    keys: ProviderKeys,
    publisher: ConfigPublisher,
    allowed_networks: Sequence[Network],
    caller: Principal,
    origin: Origin,
) -> ProviderView:
    """Adds a provider, or brings a deactivated one back with what is given now.

    `allowed_networks`: private ones that a `base_url` may lead to. Raises 403, 404 for an unknown tenant, 409 when an
    active one exists, 422, and runtime.vault's errors; nothing was changed then.
    """
    caller.must_change(new.tenant)
    _check_config(new.config, new.provider_type, allowed_networks)
    given = GivenKeys(new.api_key, new.api_keys)
    keys.check(given, new.config, provider=new.provider_type, old=None)
    async with database.transaction() as connection:
        await tenants.locked(connection, new.tenant)
        there = select(llm_providers).where(
            llm_providers.c.tenant == new.tenant, llm_providers.c.provider_type == new.provider_type
        )
        old = (await connection.execute(there)).first()
        if old is not None and old.is_active:
            raise conflict(
                f"the tenant {new.tenant} has {new.provider_type}; change it with PUT /api/v1/llm-providers/{old.id}"
            )
        values: dict[str, Any] = {
            "config": _stored(new.config),
            "is_active": True,
            "is_default": new.is_default,
        }
        if old is not None:
            # What the deactivated one had and is not given again goes.
            given = GivenKeys(new.api_key, dict.fromkeys(old.more_keys) | new.api_keys)
        values |= await keys.store(connection, given, tenant=new.tenant, provider=new.provider_type, old=old)
        former = await _unset_default(connection, new.tenant, origin) if new.is_default else []
        if old is None:
            values |= {"id": uuid.uuid4(), "tenant": new.tenant, "provider_type": new.provider_type}
            inserted = insert(llm_providers).values(values).returning(*llm_providers.c)
            row = (await connection.execute(inserted)).one()
        else:
            row = await _update(connection, old, values)
        await _record(connection, "provider.add" if old is None else "provider.reactivate", old, row, origin)
    # In this order: a worker that has not heard of the change still looks for a key that goes.
    await publisher.publish(*map(worker_config.provider, [*former, row]))
    await keys.forget(given, tenant=new.tenant, provider=new.provider_type)
    return view(row)


async def change(
    database: Database,
    provider_id: uuid.UUID,
    wanted: ProviderChange,
    *,
    keys: ProviderKeys,
    publisher: ConfigPublisher,
    allowed_networks: Sequence[Network],
    caller: Principal,
    origin: Origin,
) -> ProviderView:
    """Changes what is given; `allowed_networks` as with `add`.

    Raises 403, 404, 422, and runtime.vault's errors; nothing was changed then.
    """
    given = GivenKeys(wanted.api_key, wanted.api_keys)
    async with database.transaction() as connection:
        old = await _locked(connection, provider_id, caller)
        for name in ("tenant", "provider_type"):
            if getattr(wanted, name) not in (None, getattr(old, name)):
                raise invalid(name, "cannot change; add another provider instead")
        config = wanted.config or ProviderConfig.model_validate(old.config)
        provider = Provider(old.provider_type)
        if wanted.config is not None:
            _check_config(wanted.config, provider, allowed_networks)
        keys.check(given, config, provider=provider, old=old)
        values = _changes(wanted, old)
        values |= await keys.store(connection, given, tenant=old.tenant, provider=provider, old=old)
        former: list[Row[Any]] = []
        row = old
        if values:
            former = await _unset_default(connection, old.tenant, origin) if values.get("is_default") else []
            row = await _update(connection, old, values)
            await _record(connection, "provider.rotate" if given.set_now() else "provider.change", old, row, origin)
    if row is not old:
        await publisher.publish(*map(worker_config.provider, [*former, row]))
    await keys.forget(given, tenant=row.tenant, provider=provider)
    return view(row)


async def deactivate(
    database: Database, provider_id: uuid.UUID, *, publisher: ConfigPublisher, caller: Principal, origin: Origin
) -> None:
    """Deactivates a provider. Its keys stay in Vault, so that it can be activated again. Raises 403, 404."""
    async with database.transaction() as connection:
        old = await _locked(connection, provider_id, caller)
        if not old.is_active:
            return
        row = await _update(connection, old, {"is_active": False, "is_default": False})
        await _record(connection, "provider.deactivate", old, row, origin)
    await publisher.publish(worker_config.provider(row))


async def one(database: Database, provider_id: uuid.UUID, *, caller: Principal) -> ProviderView:
    """The provider with that id. Raises 403, 404."""
    async with database.transaction() as connection:
        row = (await connection.execute(select(llm_providers).where(llm_providers.c.id == provider_id))).first()
    if row is None:
        raise _no_provider(provider_id)
    caller.must_see(row.tenant)
    return view(row)


async def page(database: Database, wanted: ProviderFilter, *, caller: Principal, paging: Paging) -> Page[ProviderView]:
    """Those of the wanted providers that the caller sees, by tenant and type. Raises 403, 422."""
    columns = llm_providers.c
    query = select(llm_providers)
    if (tenant := caller.scope(wanted.tenant)) is not None:
        query = query.where(columns.tenant == tenant)
    if wanted.provider_type is not None:
        query = query.where(columns.provider_type == wanted.provider_type)
    if wanted.active is not None:
        query = query.where(columns.is_active.is_(wanted.active))
    async with database.transaction() as connection:
        return await read_page(
            connection, query, keys=[columns.tenant, columns.provider_type], paging=paging, view=view
        )


def view(row: Any) -> ProviderView:
    return ProviderView.model_validate({**row._mapping, "keys": provider_keys.views(row)})


def _no_provider(provider_id: uuid.UUID) -> Problem:
    return not_found(f"there is no provider {provider_id}")


async def _update(connection: AsyncConnection, old: Row[Any], values: dict[str, Any]) -> Row[Any]:
    statement = (
        update(llm_providers)
        .where(llm_providers.c.id == old.id)
        .values(**values, revision=llm_providers.c.revision + 1, updated_at=func.now())
    )
    return (await connection.execute(statement.returning(*llm_providers.c))).one()


async def _unset_default(connection: AsyncConnection, tenant: str, origin: Origin) -> list[Row[Any]]:
    """A tenant has one default at most; returns the former one as it is now."""
    query = select(llm_providers).where(llm_providers.c.tenant == tenant, llm_providers.c.is_default)
    changed: list[Row[Any]] = []
    for old in (await connection.execute(query)).all():
        row = await _update(connection, old, {"is_default": False})
        await _record(connection, "provider.change", old, row, origin)
        changed.append(row)
    return changed


async def _locked(connection: AsyncConnection, provider_id: uuid.UUID, caller: Principal) -> Row[Any]:
    """The provider, after its tenant was locked. Raises 403, 404."""
    tenant = await connection.scalar(select(llm_providers.c.tenant).where(llm_providers.c.id == provider_id))
    if tenant is None:
        raise _no_provider(provider_id)
    caller.must_change(tenant)
    await tenants.locked(connection, tenant)
    # Read after the lock was got: whoever held it before may have changed the row.
    return (await connection.execute(select(llm_providers).where(llm_providers.c.id == provider_id))).one()


async def _record(
    connection: AsyncConnection, action: str, old: Row[Any] | None, row: Row[Any], origin: Origin
) -> None:
    before = view(old).model_dump(mode="json") if old is not None else None
    after = view(row).model_dump(mode="json")
    await audit.record(connection, Change(action, "provider", str(row.id), row.tenant, before, after), origin)


def _changes(wanted: ProviderChange, old: Row[Any]) -> dict[str, Any]:
    """The columns that differ, apart from those of keys. Raises 422."""
    values: dict[str, Any] = {}
    if wanted.config is not None and _stored(wanted.config) != old.config:
        values["config"] = _stored(wanted.config)
    if wanted.is_active is not None and wanted.is_active != old.is_active:
        values["is_active"] = wanted.is_active
    is_active = values.get("is_active", old.is_active)
    if wanted.is_default and not is_active:
        raise invalid("is_default", "a deactivated provider cannot be the default")
    if wanted.is_default is not None and wanted.is_default != old.is_default:
        values["is_default"] = wanted.is_default
    elif old.is_default and not is_active:
        values["is_default"] = False
    return values


def _check_config(config: ProviderConfig, provider: Provider, allowed: Sequence[Network]) -> None:
    """Raises 422 when a base_url leads into a private network that is not allowed, or is missing where the vendor has
    no address of its own, or is longer than the audit log should get twice with every change."""
    if len(config.model_dump_json()) > _CONFIG_BYTES:
        raise invalid("config", f"must have at most {_CONFIG_BYTES} bytes as JSON")
    for index, endpoint in enumerate(config.all_endpoints()):
        where = f"config.endpoints.{index}.base_url" if config.endpoints else "config.base_url"
        if endpoint.base_url is None:
            if provider in WITHOUT_COMMON_ADDRESS:
                wanted = "the address of the resource, as https://<resource>.openai.azure.com"
                raise invalid(where, f"is required for {provider}: {wanted}")
            continue
        try:
            check_base_url(endpoint.base_url, allowed=allowed)
        except ForbiddenAddress as exc:
            raise invalid(where, str(exc)) from exc


def _stored(config: ProviderConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_unset=True)
