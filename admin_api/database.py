"""Transactions, and what it means when the database does not answer."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrations import open_migrated
from migrations.outages import DatabaseUnavailable, is_outage

_COMMAND_TIMEOUT_S = 15
_POOL_SIZE = 10


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
        except Exception as exc:
            if is_outage(exc):
                # Callers are told this text; the driver's own names hosts.
                raise DatabaseUnavailable("PostgreSQL does not answer") from exc
            raise

    async def ping(self) -> None:
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))


@asynccontextmanager
async def open_database(url: SecretStr) -> AsyncGenerator[Database]:
    """A migrated database that answers, or Unreachable."""
    async with open_migrated(
        url, application_name="fleet-admin", pool_size=_POOL_SIZE, command_timeout_s=_COMMAND_TIMEOUT_S
    ) as engine:
        yield Database(engine)
