"""What it means that PostgreSQL is away or cannot serve right now, in one place for every role that asks it."""

from collections.abc import Generator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from contracts.wire import reason

UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
"""What asyncpg raises when a server cannot be reached, does not answer in time, or has closed the connection."""

_OUTAGE_STATES = (
    "08",  # the connection
    "53",  # resources: too many connections, a full disk
    "57",  # an operator: shutting down, starting up, a query that was ended
    "25006",  # read-only, as a server that has just become a standby is
    "55P03",  # a lock that was not to be had in time
)
"""The SQLSTATEs of an outage, or how they begin: https://www.postgresql.org/docs/current/errcodes-appendix.html"""


class DatabaseUnavailable(Exception):
    """PostgreSQL does not answer, or cannot serve right now."""


def is_outage(exc: BaseException) -> bool:
    """Whether `exc`, of asyncpg or SQLAlchemy, says that the server is away, and not that somebody made a mistake."""
    if not isinstance(exc, DBAPIError):
        return isinstance(exc, (*UNREACHABLE, PoolTimeout, asyncpg.OperatorInterventionError))
    driver_error = exc.orig.__cause__ if exc.orig is not None else None
    if isinstance(driver_error, ValueError):  # asyncpg.DataError, an InterfaceError: a value that it cannot encode
        return False
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    return exc.connection_invalidated or isinstance(driver_error, UNREACHABLE) or state.startswith(_OUTAGE_STATES)


@contextmanager
def outages_as_unavailable() -> Generator[None]:
    """Raises DatabaseUnavailable, with the driver's words in one line, in place of an outage; other errors pass."""
    try:
        yield
    except Exception as exc:
        if is_outage(exc):
            raise DatabaseUnavailable(one_line(exc)) from exc
        raise


def one_line(exc: BaseException) -> str:
    """The driver's own words, without the statement that SQLAlchemy adds."""
    cause = (exc.orig.__cause__ or exc.orig) if isinstance(exc, DBAPIError) and exc.orig else exc
    return reason(cause).partition("\n")[0]
