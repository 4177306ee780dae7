"""/api/v1/dead-letters"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from admin_api.access.principals import AuditOrigin, CurrentPrincipal, CurrentWriter
from admin_api.dependencies import Db, DeadLetters
from admin_api.http.pagination import Page, Paged
from admin_api.http.problems import api_problems
from admin_api.operations import dead_letters
from admin_api.operations.dead_letter_stream import DeadLetter, DeadLetterFilter
from admin_api.operations.dead_letters import OpenLetter, Replayed
from contracts.wire import Token

router = APIRouter(prefix="/api/v1/dead-letters", tags=["dead-letters"])

Seq = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("", responses=api_problems(422))
async def list_dead_letters(
    letters: DeadLetters,
    caller: CurrentPrincipal,
    paging: Paged,
    tenant: Annotated[Token | None, Query()] = None,
    provider: Annotated[Token | None, Query()] = None,
    code: Annotated[Token | None, Query()] = None,
) -> Page[DeadLetter]:
    """What could not be processed, the newest first, without payloads. A page may end early; `next` says whether there
    is more."""
    wanted = DeadLetterFilter(tenant=tenant, provider=provider, code=code)
    return await dead_letters.page(letters, wanted, caller=caller, paging=paging)


@router.get("/{seq}", responses=api_problems(404, 422))
async def get_dead_letter(letters: DeadLetters, caller: CurrentPrincipal, seq: Seq) -> OpenLetter:
    """One dead letter; for admins with its payload."""
    return await dead_letters.one(letters, seq, caller=caller)


@router.post("/{seq}/replay", responses=api_problems(404, 409, 422))
async def replay_dead_letter(
    letters: DeadLetters, database: Db, caller: CurrentWriter, origin: AuditOrigin, seq: Seq
) -> Replayed:
    """Sends the original bytes again to where they came from, and deletes the letter."""
    return await dead_letters.replay(letters, seq, database=database, caller=caller, origin=origin)


@router.delete("/{seq}", status_code=HTTPStatus.NO_CONTENT, responses=api_problems(404, 422))
async def delete_dead_letter(
    letters: DeadLetters, database: Db, caller: CurrentWriter, origin: AuditOrigin, seq: Seq
) -> None:
    """Deletes a dead letter for good."""
    await dead_letters.delete(letters, seq, database=database, caller=caller, origin=origin)
