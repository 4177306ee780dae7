"""Changes that a known caller asked for and that were not made, in the audit log.

They stand in the chain of the caller's tenant, so that nobody learns of another tenant's attempts. Callers who are not
known or come too often are summed up instead, by access.refusal_counts.
"""

import logging

from starlette.types import Scope

from admin_api.access.principals import Principal
from admin_api.database import Database, DatabaseUnavailable
from migrations import audit
from migrations.audit import Change, Origin

log = logging.getLogger(__name__)

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_MAX_NAME = 200


async def record(database: Database, scope: Scope, status: int) -> None:
    """Writes a row when a route that changes something refused. When it cannot be written, the log has it.

    Called before the answer goes out, so that a caller who has seen a refusal can find it.
    """
    if not 400 <= status < 500 or scope["method"] not in CHANGING or "route" not in scope:
        return
    change, origin = refused(scope, status)
    try:
        async with database.transaction() as connection:
            await audit.record(connection, change, origin)
    except DatabaseUnavailable:
        log.warning("refusal_not_recorded", extra={"action": change.action, "actor": origin.actor, "status": status})


def refused(scope: Scope, status: int) -> tuple[Change, Origin]:
    """The row's contents. Of what was asked for it tells the path and nothing of the body, which may hold a secret."""
    caller: Principal = scope["state"]["principal"]
    verb, kind = named(scope["route"].name)
    detail = scope["state"].get("problem_detail")
    refusal = {"status": status, "detail": detail}
    path = "/".join(str(value) for value in scope.get("path_params", {}).values())[:_MAX_NAME]
    # Some columns of PostgreSQL take no control characters, and a path may have any.
    object_id = "".join(letter if letter.isprintable() else "?" for letter in path)
    change = Change(f"{kind}.{verb}", kind, object_id, caller.tenant, before=None, after=None, refusal=refusal)
    return change, Origin(actor=caller.name, source=scope["state"]["source"])


def named(route: str) -> tuple[str, str]:
    """The verb and the object in the name of a route's function: those of `change_provider`, whose change is
    `provider.change`."""
    verb, _, kind = route.partition("_")
    return verb, kind
