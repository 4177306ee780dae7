"""What counts as an outage of PostgreSQL, and what as a mistake."""

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from migrations.outages import DatabaseUnavailable, is_outage, one_line, outages_as_unavailable


class DriverError(Exception):
    """As SQLAlchemy's dialect wraps what asyncpg raises."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.sqlstate: str | None = getattr(cause, "sqlstate", None)
        self.__cause__ = cause


def wrapped(cause: Exception, *, kind: type[DBAPIError] = DBAPIError) -> DBAPIError:
    return kind("SELECT secret", None, DriverError(cause))


OUTAGES = {
    "no server": ConnectionRefusedError(111, "Connection refused"),
    "no answer": TimeoutError(),
    "no connection left": PoolTimeout(),
    "the server said goodbye": asyncpg.AdminShutdownError("terminating connection"),
    "a closed connection": wrapped(asyncpg.InterfaceError("connection is closed"), kind=InterfaceError),
    "a server that starts": wrapped(asyncpg.CannotConnectNowError("starting up")),
    "too many connections": wrapped(asyncpg.TooManyConnectionsError("sorry")),
    "a full disk": wrapped(asyncpg.DiskFullError("no space left")),
    "a query that was ended": wrapped(asyncpg.QueryCanceledError("canceled")),
    "a standby": wrapped(asyncpg.ReadOnlySQLTransactionError("read-only")),
    "a lock that was not to be had": wrapped(asyncpg.LockNotAvailableError("lock timeout")),
}
MISTAKES = {
    "a duplicate": wrapped(asyncpg.UniqueViolationError("duplicate"), kind=IntegrityError),
    "a value that cannot be encoded": wrapped(asyncpg.DataError("too large"), kind=InterfaceError),
    "a missing table": wrapped(asyncpg.UndefinedTableError("no such table")),
    "a wrong password": asyncpg.InvalidPasswordError("no"),
    "a bug": ZeroDivisionError(),
}


@pytest.mark.parametrize("exc", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_is_one_however_it_shows(exc: Exception) -> None:
    assert is_outage(exc)
    with pytest.raises(DatabaseUnavailable), outages_as_unavailable():
        raise exc


@pytest.mark.parametrize("exc", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_no_outage(exc: Exception) -> None:
    assert not is_outage(exc)
    with pytest.raises(type(exc)), outages_as_unavailable():
        raise exc


def test_a_line_for_the_log_has_the_drivers_words_and_no_statement() -> None:
    assert one_line(wrapped(asyncpg.DiskFullError("no space left\nDETAIL: x"))) == "DiskFullError: no space left"
