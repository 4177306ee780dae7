"""Tokens of the admin API: shown once, stored as a hash."""

import secrets
import uuid
from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, SecretStr, StringConstraints, model_validator
from sqlalchemy import func, insert, null, or_, select, update

from admin_api.access.authenticator import PREFIX, hash_of
from admin_api.access.principals import Principal, Role
from admin_api.configuration import tenants
from admin_api.database import Database
from admin_api.http.bodies import Body
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import invalid, not_found
from contracts.wire import Token, utc_now
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import api_tokens

_BYTES = 32


class NewToken(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
    role: Role
    tenant: Token | None = None
    """Required for tenant_admin, refused for admin; a viewer without one sees all tenants."""
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _role_fits_tenant(self) -> "NewToken":
        if self.role is Role.ADMIN and self.tenant is not None:
            raise ValueError("an admin token is for all tenants; leave tenant out")
        if self.role is Role.TENANT_ADMIN and self.tenant is None:
            raise ValueError("a tenant_admin token needs a tenant")
        return self


class TokenView(BaseModel):
    id: uuid.UUID
    name: str
    role: Role
    tenant: str | None
    expires_at: datetime | None
    created_at: datetime
    last_used_at: datetime | None


class AddedToken(TokenView):
    token: str
    """The token itself. It is shown this one time."""


async def add(database: Database, new: NewToken, *, caller: Principal, origin: Origin) -> AddedToken:
    """Adds a token. Raises 403, 404 for an unknown tenant, 422."""
    caller.must_change(new.tenant)
    if new.expires_at is not None and new.expires_at <= utc_now():
        raise invalid("expires_at", "lies in the past")
    token = SecretStr(PREFIX + secrets.token_urlsafe(_BYTES))
    async with database.transaction() as connection:
        if new.tenant is not None:
            await tenants.locked(connection, new.tenant)
        row = (
            await connection.execute(
                insert(api_tokens)
                .values(
                    id=uuid.uuid4(),
                    name=new.name,
                    token_hash=hash_of(token),
                    role=new.role,
                    tenant=new.tenant if new.tenant is not None else null(),
                    expires_at=new.expires_at,
                )
                .returning(*api_tokens.c)
            )
        ).one()
        change = Change("token.add", "token", str(row.id), row.tenant, before=None, after=_snapshot(row))
        await audit.record(connection, change, origin)
    return AddedToken(**view(row).model_dump(), token=token.get_secret_value())


async def revoke(database: Database, token_id: uuid.UUID, *, caller: Principal, origin: Origin) -> None:
    """The token is refused from now on. Raises 403, 404."""
    async with database.transaction() as connection:
        row = (
            await connection.execute(
                select(api_tokens)
                .where(api_tokens.c.id == token_id, api_tokens.c.revoked_at.is_(None))
                .with_for_update()
            )
        ).first()
        if row is None:
            raise not_found(f"there is no token {token_id}")
        caller.must_change(row.tenant)
        await connection.execute(update(api_tokens).where(api_tokens.c.id == token_id).values(revoked_at=func.now()))
        change = Change("token.revoke", "token", str(row.id), row.tenant, before=_snapshot(row), after=None)
        await audit.record(connection, change, origin)


async def page(database: Database, *, caller: Principal, paging: Paging) -> Page[TokenView]:
    """The tokens that work, of the caller's tenant or of all."""
    columns = api_tokens.c
    query = select(api_tokens).where(
        columns.revoked_at.is_(None), or_(columns.expires_at.is_(None), columns.expires_at > func.now())
    )
    if (tenant := caller.scope(None)) is not None:
        query = query.where(columns.tenant == tenant)
    async with database.transaction() as connection:
        return await read_page(connection, query, keys=[columns.id], paging=paging, view=view)


def view(row: Any) -> TokenView:
    return TokenView.model_validate(row, from_attributes=True)


def _snapshot(row: Any) -> dict[str, Any]:
    """The token as the audit log shows it: without its last use, which is no change."""
    return view(row).model_dump(mode="json", exclude={"last_used_at"})
