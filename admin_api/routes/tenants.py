"""/api/v1/tenants"""

from http import HTTPStatus

from fastapi import APIRouter

from admin_api.access.principals import AuditOrigin, CurrentAdmin, CurrentPrincipal, CurrentWriter
from admin_api.configuration import tenants
from admin_api.configuration.tenants import NewTenant, Tenant, TenantChange
from admin_api.dependencies import Db, Publisher
from admin_api.http.pagination import Page, Paged
from admin_api.http.problems import api_problems

router = APIRouter(prefix="/api/v1/tenants", tags=["tenants"])


@router.get("", responses=api_problems(422))
async def list_tenants(database: Db, caller: CurrentPrincipal, paging: Paged) -> Page[Tenant]:
    """The tenants that the caller may see, by slug."""
    return await tenants.page(database, caller=caller, paging=paging)


@router.post("", status_code=HTTPStatus.CREATED, responses=api_problems(404, 409, 413, 422))
async def add_tenant(
    database: Db, publisher: Publisher, _: CurrentAdmin, origin: AuditOrigin, new: NewTenant
) -> Tenant:
    """Adds a tenant."""
    return await tenants.add(database, new, publisher=publisher, origin=origin)


@router.get("/{slug}", responses=api_problems(404, 422))
async def get_tenant(database: Db, caller: CurrentPrincipal, slug: str) -> Tenant:
    """One tenant."""
    return await tenants.one(database, slug, caller=caller)


@router.put("/{slug}", responses=api_problems(404, 409, 413, 422))
async def change_tenant(
    database: Db,
    publisher: Publisher,
    caller: CurrentWriter,
    origin: AuditOrigin,
    slug: str,
    wanted: TenantChange,
) -> Tenant:
    """Changes what is given. Null: the default; 0: no limit; left out: unchanged."""
    return await tenants.change(database, slug, wanted, publisher=publisher, caller=caller, origin=origin)
