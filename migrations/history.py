"""Moves a database to the newest schema, and tells whether it has it."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrations.engine import COMMAND_TIMEOUT_S, address, check, make_engine, open_engine, unreachable
from migrations.outages import UNREACHABLE
from runtime.broker import Unreachable

_HERE = Path(__file__).parent
_LOCK = int.from_bytes(b"fleet")
_MIGRATION_TIMEOUT_S = 3600


def upgrade(database_url: str | SecretStr) -> None:
    """Brings the database to the newest schema. Safe when several run at once: the others wait, then find it done.

    Blocks, on an event loop in a thread of its own. Raises runtime.broker.Unreachable.
    """
    url = database_url if isinstance(database_url, SecretStr) else SecretStr(database_url)
    with ThreadPoolExecutor(1, thread_name_prefix="migrate") as thread:
        thread.submit(lambda: asyncio.run(_upgrade(url))).result()


@asynccontextmanager
async def open_migrated(
    database_url: SecretStr,
    *,
    application_name: str,
    pool_size: int = 5,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> AsyncGenerator[AsyncEngine]:
    """An engine whose server has answered and has the tables of this version, or Unreachable; disposed of at exit."""
    async with open_engine(
        database_url, application_name=application_name, pool_size=pool_size, command_timeout_s=command_timeout_s
    ) as engine:
        async with engine.connect() as connection:
            if not await is_current(connection):
                raise Unreachable(
                    f"the database at {address(database_url)} lacks the tables of this version; run: fleet migrate"
                )
        yield engine


async def is_current(connection: AsyncConnection) -> bool:
    """Whether the database has the newest schema that this program knows, or a later program's."""
    current = await connection.run_sync(_current)
    return current is not None and current not in _outdated()


@cache
def _outdated() -> frozenset[str]:
    script = ScriptDirectory.from_config(_config())
    return frozenset(known.revision for known in script.walk_revisions()) - set(script.get_heads())


async def _upgrade(url: SecretStr) -> None:
    engine = make_engine(url, application_name="fleet-migrate", pool_size=1, command_timeout_s=_MIGRATION_TIMEOUT_S)
    try:
        await check(engine, url)
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.run_sync(_run)
    except UNREACHABLE as exc:
        raise unreachable(url, exc) from exc
    finally:
        await engine.dispose()


def _run(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
