"""/api/v1/tokens"""

import uuid
from http import HTTPStatus

from fastapi import APIRouter

from admin_api import tokens
from admin_api.auth import From, Writer
from admin_api.control_plane import Plane
from admin_api.paging import Page, Paged
from admin_api.tokens import AddedToken, NewToken, TokenView

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


@router.get("")
async def list_tokens(plane: Plane, caller: Writer, paging: Paged) -> Page[TokenView]:
    """The tokens that work, of the caller's tenant or of all."""
    return await tokens.page(plane, tenant=caller.tenant, paging=paging)


@router.post("", status_code=HTTPStatus.CREATED)
async def add_token(plane: Plane, caller: Writer, origin: From, new: NewToken) -> AddedToken:
    """Adds a token. The answer shows it, once."""
    return await tokens.add(plane, new, caller=caller, origin=origin)


@router.delete("/{token_id}", status_code=HTTPStatus.NO_CONTENT)
async def revoke_token(plane: Plane, caller: Writer, origin: From, token_id: uuid.UUID) -> None:
    """Revokes a token, at once."""
    await tokens.revoke(plane, token_id, caller=caller, origin=origin)
