"""Who is calling, and what that caller may do.

Roles: `admin` does everything, `tenant_admin` everything within its tenant, `viewer` reads its tenant or all.

Every endpoint decides about rights in the same two steps:

1. **The kind of caller that an endpoint is for stands in its signature**: `CurrentPrincipal` for every known caller,
   `CurrentWriter` for one that may change something, `CurrentAdmin` for an admin. It is decided before the body and the
   parameters are validated, so that a viewer learns nothing of what a change would have to look like.
2. **Whose objects a caller may see or change is decided by the service function**, to which the route hands the caller
   and asks nothing itself: `scope` for a list, `must_see` and `must_change` for one object. A function asks before all
   else where the request names the tenant, and otherwise as soon as it has read the object: what does not exist is 404
   for every caller.

So the order of answers is 401 (access.authentication_middleware), 403 by kind, 422 for what is not well-formed, 403 by
tenant, then 404, 409 and 422 for what is wrong with the request's meaning.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from admin_api.http.problems import forbidden
from migrations.audit import Origin

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="LLM_ADMIN_TOKEN, one from POST /tokens, or one of the OpenID Connect issuer",
)


class Role(StrEnum):
    """The most powerful first."""

    ADMIN = "admin"
    TENANT_ADMIN = "tenant_admin"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that is known. `tenant` None: all tenants."""

    name: str
    role: Role
    tenant: str | None = None

    def sees(self, tenant: str | None) -> bool:
        """Whether objects of this tenant, or of all tenants when None, may be read."""
        return self.tenant is None or self.tenant == tenant

    def changes(self, tenant: str | None) -> bool:
        """Whether objects of this tenant, or of all tenants when None, may be changed."""
        match self.role:
            case Role.ADMIN:
                return True
            case Role.TENANT_ADMIN:
                return tenant is not None and tenant == self.tenant
            case Role.VIEWER:
                return False

    def must_see(self, tenant: str | None) -> None:
        """Raises a 403 problem unless objects of this tenant, or of all tenants when None, may be read."""
        if not self.sees(tenant):
            raise forbidden(f"this token is for the tenant {self.tenant} only")

    def must_change(self, tenant: str | None) -> None:
        """Raises a 403 problem unless objects of this tenant, or of all tenants when None, may be changed."""
        if not self.changes(tenant):
            raise forbidden(
                "this token may only read"
                if self.role is Role.VIEWER
                else f"this token is for the tenant {self.tenant} only"
            )

    def scope(self, tenant: str | None) -> str | None:
        """The tenant to filter a list by when `tenant` was asked for; None in and out: all tenants.

        Raises a 403 problem for a tenant that the caller may not see.
        """
        if tenant is not None:
            self.must_see(tenant)
        return tenant if tenant is not None else self.tenant


async def current_principal(request: Request, _: Annotated[object, Depends(BEARER)]) -> Principal:
    """The caller of this request, whom AuthenticationMiddleware found; BEARER tells the OpenAPI document how."""
    return request.state.principal


async def current_writer(caller: Annotated[Principal, Depends(current_principal)]) -> Principal:
    """A caller that may change something. Raises a 403 problem for any other."""
    if caller.role is Role.VIEWER:
        raise forbidden("this token may only read")
    return caller


async def current_admin(caller: Annotated[Principal, Depends(current_principal)]) -> Principal:
    """A caller with the role admin. Raises a 403 problem for any other."""
    if caller.role is not Role.ADMIN:
        raise forbidden("this needs the role admin")
    return caller


async def audit_origin(request: Request, caller: Annotated[Principal, Depends(current_principal)]) -> Origin:
    """Whom, and which address, the audit log names for this request."""
    return Origin(actor=caller.name, source=request.state.source)


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]
CurrentWriter = Annotated[Principal, Depends(current_writer)]
CurrentAdmin = Annotated[Principal, Depends(current_admin)]
AuditOrigin = Annotated[Origin, Depends(audit_origin)]
