"""Transactions, and what it means when the database does not answer."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import sqlalchemy.exc
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrations import is_current
from migrations.engine import UNREACHABLE, address, check, make_engine
from runtime.broker import Unreachable

COMMAND_TIMEOUT_S = 15
_POOL_SIZE = 10

_GONE = ("08", "53", "57P", "25006", "55P03")
"""SQLSTATEs of a server that is away, full, shutting down, failing over to read-only, or locked."""


class DatabaseUnavailable(Exception):
    """PostgreSQL does not answer, or not now."""


class Database:
    """Transactions on one engine; a server that is away is `DatabaseUnavailable`, however that shows."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Commits at the end of the block."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (*UNREACHABLE, sqlalchemy.exc.TimeoutError) as exc:
            raise DatabaseUnavailable("PostgreSQL does not answer") from exc
        except sqlalchemy.exc.DBAPIError as exc:
            if _is_away(exc):
                raise DatabaseUnavailable("PostgreSQL does not answer") from exc
            raise

    async def ping(self) -> None:
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))


@asynccontextmanager
async def open_database(url: SecretStr) -> AsyncGenerator[Database]:
    """A migrated database that answers, or Unreachable."""
    engine = make_engine(url, application_name="fleet-admin", pool_size=_POOL_SIZE, command_timeout_s=COMMAND_TIMEOUT_S)
    try:
        await check(engine, url)
        async with engine.connect() as connection:
            if not await is_current(connection):
                raise Unreachable(
                    f"the database at {address(url)} lacks the schema of this version; run: fleet migrate"
                )
        yield Database(engine)
    finally:
        await engine.dispose()


def _is_away(exc: sqlalchemy.exc.DBAPIError) -> bool:
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    cause = exc.orig.__cause__ if exc.orig is not None else None
    return (
        exc.connection_invalidated
        or isinstance(exc, sqlalchemy.exc.InterfaceError)
        or isinstance(cause, UNREACHABLE)
        or state.startswith(_GONE)
    )
