"""/api/v1/tenants"""

from http import HTTPStatus

from fastapi import APIRouter

from admin_api.access.principals import AuditOrigin, CurrentAdmin, CurrentPrincipal, CurrentWriter
from admin_api.configuration import tenants
from admin_api.configuration.tenants import NewTenant, Tenant, TenantChange
from admin_api.control_plane import Plane
from admin_api.http.pagination import Page, Paged

router = APIRouter(prefix="/api/v1/tenants", tags=["tenants"])


@router.get("")
async def list_tenants(plane: Plane, caller: CurrentPrincipal, paging: Paged) -> Page[Tenant]:
    """The tenants that the caller may see, by slug."""
    return await tenants.page(plane, only=caller.tenant, paging=paging)


@router.post("", status_code=HTTPStatus.CREATED)
async def add_tenant(plane: Plane, _: CurrentAdmin, origin: AuditOrigin, new: NewTenant) -> Tenant:
    """Adds a tenant."""
    return await tenants.add(plane, new, origin)


@router.get("/{slug}")
async def get_tenant(plane: Plane, caller: CurrentPrincipal, slug: str) -> Tenant:
    """One tenant."""
    caller.must_see(slug)
    return await tenants.one(plane, slug)


@router.put("/{slug}")
async def change_tenant(
    plane: Plane, caller: CurrentWriter, origin: AuditOrigin, slug: str, wanted: TenantChange
) -> Tenant:
    """Changes what is given. Null: the default; 0: no limit; left out: unchanged."""
    caller.must_change(slug)
    return await tenants.change(plane, slug, wanted, origin)
