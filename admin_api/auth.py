"""Who is calling, and what that caller may do.

A bearer token is the bootstrap admin's (LLM_ADMIN_TOKEN) or a row of `api_tokens`, which holds its SHA-256 only.
Roles: `admin` does everything, `tenant_admin` everything within its tenant, `viewer` reads its tenant or all.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from sqlalchemy import or_, select, update

from admin_api.database import Database
from admin_api.problems import forbidden, unauthorized
from contracts.wire import utc_now
from migrations.audit import Origin
from migrations.schema import api_tokens

_SEEN_EVERY = timedelta(minutes=1)
"""How exact `last_used_at` is: not every request writes."""

BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="LLM_ADMIN_TOKEN, or one from POST /tokens")


class Role(StrEnum):
    ADMIN = "admin"
    TENANT_ADMIN = "tenant_admin"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that was recognised. `tenant` None: all tenants."""

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
        """Raises a 403 problem."""
        if not self.sees(tenant):
            raise forbidden(f"this token is for the tenant {self.tenant} only")

    def must_change(self, tenant: str | None) -> None:
        """Raises a 403 problem."""
        if not self.changes(tenant):
            raise forbidden(
                "this token may only read"
                if self.role is Role.VIEWER
                else f"this token is for the tenant {self.tenant} only"
            )

    def scope(self, tenant: str | None) -> str | None:
        """The tenant to filter by when `tenant` was asked for (None: whatever the caller may see)."""
        if tenant is not None:
            self.must_see(tenant)
        return tenant if tenant is not None else self.tenant


class Gate:
    """Recognises bearer tokens."""

    def __init__(self, database: Database, bootstrap: SecretStr | None) -> None:
        self._database = database
        self._bootstrap = hash_of(bootstrap) if bootstrap else None

    async def recognise(self, token: SecretStr) -> Principal:
        """Raises a 401 problem."""
        presented = hash_of(token)
        if self._bootstrap is not None and hmac.compare_digest(presented, self._bootstrap):
            return Principal("bootstrap", Role.ADMIN)
        return await self._recognise_stored(presented)

    async def _recognise_stored(self, presented: bytes) -> Principal:
        now = utc_now()
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(api_tokens).where(api_tokens.c.token_hash == presented))).first()
            if row is None or not hmac.compare_digest(presented, bytes(row.token_hash)):
                raise unauthorized("the bearer token is not known")
            if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
                raise unauthorized("the bearer token was revoked or has expired")
            stale = or_(api_tokens.c.last_used_at.is_(None), api_tokens.c.last_used_at < now - _SEEN_EVERY)
            if row.last_used_at is None or row.last_used_at < now - _SEEN_EVERY:
                await connection.execute(
                    update(api_tokens).where(api_tokens.c.id == row.id, stale).values(last_used_at=now)
                )
        return Principal(f"token:{row.id}", Role(row.role), row.tenant)


def hash_of(token: SecretStr) -> bytes:
    """What is stored of a token. Tokens are random and long, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(token.get_secret_value().encode()).digest()


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Principal:
    """The caller of this request. Raises a 401 problem."""
    if credentials is None:
        raise unauthorized("send Authorization: Bearer <token>")
    gate: Gate = request.app.state.control_plane.gate
    principal = await gate.recognise(SecretStr(credentials.credentials))
    request.state.actor = principal.name
    return principal


async def authenticate_writer(caller: Annotated[Principal, Depends(authenticate)]) -> Principal:
    """A caller that may change something; asked before the body is looked at. Raises a 403 problem."""
    if caller.role is Role.VIEWER:
        raise forbidden("this token may only read")
    return caller


async def authenticate_admin(caller: Annotated[Principal, Depends(authenticate)]) -> Principal:
    """Raises a 403 problem."""
    if caller.role is not Role.ADMIN:
        raise forbidden("this needs the role admin")
    return caller


async def origin(request: Request, caller: Annotated[Principal, Depends(authenticate)]) -> Origin:
    """Whom and where the audit log names for this request."""
    return Origin(actor=caller.name, source=request.client.host if request.client else "unknown")


Caller = Annotated[Principal, Depends(authenticate)]
Writer = Annotated[Principal, Depends(authenticate_writer)]
Admin = Annotated[Principal, Depends(authenticate_admin)]
From = Annotated[Origin, Depends(origin)]
