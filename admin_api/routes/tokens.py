"""/api/v1/tokens"""

import uuid
from http import HTTPStatus

from fastapi import APIRouter

from admin_api.access.principals import AuditOrigin, CurrentWriter
from admin_api.configuration import api_tokens
from admin_api.configuration.api_tokens import AddedToken, NewToken, TokenView
from admin_api.dependencies import Db
from admin_api.http.pagination import Page, Paged
from admin_api.http.problems import api_problems

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"])


@router.get("", responses=api_problems(422))
async def list_tokens(database: Db, caller: CurrentWriter, paging: Paged) -> Page[TokenView]:
    """The tokens that work, of the caller's tenant or of all."""
    return await api_tokens.page(database, caller=caller, paging=paging)


@router.post("", status_code=HTTPStatus.CREATED, responses=api_problems(404, 409, 413, 422))
async def add_token(database: Db, caller: CurrentWriter, origin: AuditOrigin, new: NewToken) -> AddedToken:
    """Adds a token. The answer shows it, once."""
    return await api_tokens.add(database, new, caller=caller, origin=origin)


@router.delete("/{token_id}", status_code=HTTPStatus.NO_CONTENT, responses=api_problems(404, 422))
async def revoke_token(database: Db, caller: CurrentWriter, origin: AuditOrigin, token_id: uuid.UUID) -> None:
    """Revokes a token, at once."""
    await api_tokens.revoke(database, token_id, caller=caller, origin=origin)
