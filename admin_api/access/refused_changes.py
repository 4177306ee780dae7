"""Changes that were asked for by a known caller and not made, in the audit log.

They stand in the chain of the caller's tenant: nobody learns of another tenant's attempts. Callers who are not known
or come too often are summarised, see admin_api.access.refusal_counts.
"""

import logging
from typing import Any

from starlette.types import Scope

from admin_api.access.principals import Principal
from admin_api.database import Database, DatabaseUnavailable
from migrations import audit
from migrations.audit import Change, Origin

log = logging.getLogger(__name__)

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_MAX_NAME = 200


async def record(database: Database, scope: Scope, status: int) -> None:
    """Writes a row when a route that changes something refused. When it cannot be written, the log has it."""
    if not 400 <= status < 500 or scope["method"] not in CHANGING or "route" not in scope:
        return
    change, origin = refused(scope, status)
    try:
        async with database.transaction() as connection:
            await audit.record(connection, change, origin)
    except DatabaseUnavailable:
        log.warning("refusal_not_recorded", extra={"action": change.action, "actor": origin.actor, "status": status})


def refused(scope: Scope, status: int) -> tuple[Change, Origin]:
    """The row's contents. Of what was asked for, only the path says anything: a body may hold a secret."""
    caller: Principal = scope["state"]["principal"]
    verb, kind = named(scope["route"].name)
    detail = scope["state"].get("problem_detail")
    refusal = {"status": status, "detail": detail}
    change = Change(f"{kind}.{verb}", kind, _object(scope), caller.tenant, before=None, after=None, refusal=refusal)
    return change, Origin(actor=caller.name, source=scope["state"]["source"])


def named(route: str) -> tuple[str, str]:
    """Verb and object of a route's function, as `change_provider`, whose change is `provider.change`."""
    verb, _, kind = route.partition("_")
    return verb, kind


def _object(scope: Scope) -> str:
    """What the path names, as text that every column takes."""
    parameters: dict[str, Any] = scope.get("path_params", {})
    name = "/".join(str(value) for value in parameters.values())[:_MAX_NAME]
    return "".join(letter if letter.isprintable() else "?" for letter in name)
