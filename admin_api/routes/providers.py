"""/api/v1/llm-providers"""

import uuid
from datetime import date
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from admin_api.access.principals import AuditOrigin, CurrentPrincipal, CurrentWriter
from admin_api.configuration import providers
from admin_api.configuration.providers import NewProvider, ProviderChange, ProviderFilter, ProviderView
from admin_api.dependencies import Db, Keys, Networks, Publisher, Workers
from admin_api.http.pagination import Page, Paged, PagedSums
from admin_api.http.problems import api_problems
from admin_api.operations import fleet_state, usage_reports
from admin_api.operations.fleet_state import HealthResult
from admin_api.operations.usage_reports import Usage
from contracts.subjects import Provider
from contracts.wire import Token

router = APIRouter(prefix="/api/v1/llm-providers", tags=["llm-providers"])


@router.post("", status_code=HTTPStatus.CREATED, responses=api_problems(404, 409, 413, 422))
async def add_provider(
    database: Db,
    keys: Keys,
    publisher: Publisher,
    networks: Networks,
    caller: CurrentWriter,
    origin: AuditOrigin,
    new: NewProvider,
) -> ProviderView:
    """Adds a provider to a tenant, or brings a deactivated one back. The key is sealed and never returned."""
    return await providers.add(
        database, new, keys=keys, publisher=publisher, allowed_networks=networks, caller=caller, origin=origin
    )


@router.get("", responses=api_problems(422))
async def list_providers(
    database: Db,
    caller: CurrentPrincipal,
    paging: Paged,
    tenant: Annotated[Token | None, Query()] = None,
    provider_type: Annotated[Provider | None, Query(alias="type")] = None,
    active: Annotated[bool | None, Query()] = None,
) -> Page[ProviderView]:
    """The providers that the caller may see, by tenant and type."""
    wanted = ProviderFilter(tenant=tenant, provider_type=provider_type, active=active)
    return await providers.page(database, wanted, caller=caller, paging=paging)


@router.get("/{provider_id}", responses=api_problems(404, 422))
async def get_provider(database: Db, caller: CurrentPrincipal, provider_id: uuid.UUID) -> ProviderView:
    """One provider."""
    return await providers.one(database, provider_id, caller=caller)


@router.put("/{provider_id}", responses=api_problems(404, 409, 413, 422))
async def change_provider(
    database: Db,
    keys: Keys,
    publisher: Publisher,
    networks: Networks,
    caller: CurrentWriter,
    origin: AuditOrigin,
    provider_id: uuid.UUID,
    wanted: ProviderChange,
) -> ProviderView:
    """Changes what is given; `api_key` rotates the key, `config` is replaced as a whole."""
    return await providers.change(
        database,
        provider_id,
        wanted,
        keys=keys,
        publisher=publisher,
        allowed_networks=networks,
        caller=caller,
        origin=origin,
    )


@router.delete("/{provider_id}", status_code=HTTPStatus.NO_CONTENT, responses=api_problems(404, 422))
async def deactivate_provider(
    database: Db, publisher: Publisher, caller: CurrentWriter, origin: AuditOrigin, provider_id: uuid.UUID
) -> None:
    """Deactivates a provider: no further request goes there. What it was used for stays booked."""
    await providers.deactivate(database, provider_id, publisher=publisher, caller=caller, origin=origin)


@router.post("/{provider_id}/test", responses=api_problems(404, 409, 422))
async def test_provider(database: Db, workers: Workers, caller: CurrentWriter, provider_id: uuid.UUID) -> HealthResult:
    """A worker makes one cheap authenticated call to each endpoint, with the stored key."""
    return await fleet_state.check_health(database, provider_id, workers=workers, caller=caller)


@router.get("/{provider_id}/usage", responses=api_problems(404, 422))
async def get_provider_usage(
    database: Db,
    caller: CurrentPrincipal,
    paging: PagedSums,
    provider_id: uuid.UUID,
    first: Annotated[date | None, Query(alias="from")] = None,
    last: Annotated[date | None, Query(alias="to")] = None,
) -> Usage:
    """Usage by day and model, both days included; the last 30 days unless said otherwise."""
    return await usage_reports.of_provider(database, provider_id, first=first, last=last, caller=caller, paging=paging)
