"""A SQLAlchemy engine from a DATABASE_URL, and what may be said of that URL in a log."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr
from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from migrations.outages import UNREACHABLE, one_line
from runtime.broker import Unreachable

CONNECT_TIMEOUT_S = 5
COMMAND_TIMEOUT_S = 60

# What libpq understands and asyncpg would send to the server as a setting.
_LIBPQ_ONLY = {
    "channel_binding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
}


def make_engine(
    database_url: SecretStr, *, application_name: str, pool_size: int = 5, command_timeout_s: float = COMMAND_TIMEOUT_S
) -> AsyncEngine:
    """An engine for `postgresql://…` or `postgres://…`, with everything that asyncpg reads from such a URL.

    That includes Unix sockets (`?host=/run/postgresql`), several hosts, and the ssl options. Connections are checked
    before use, so that a restarted server costs no failed query.
    """
    url = urlsplit(database_url.get_secret_value())
    options = [(k, v) for k, v in parse_qsl(url.query, keep_blank_values=True) if k not in _LIBPQ_ONLY]
    dsn = urlunsplit(url._replace(query=urlencode(options)))

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=command_timeout_s,
            server_settings={
                "application_name": application_name,
                "timezone": "UTC",
                # What is committed is acked: a server that is set to lose its last moments must not lose ours.
                "synchronous_commit": "on",
            },
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,
        json_serializer=_to_json,
    )


@asynccontextmanager
async def open_engine(
    database_url: SecretStr,
    *,
    application_name: str,
    pool_size: int = 5,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> AsyncGenerator[AsyncEngine]:
    """An engine whose server has answered, or Unreachable; disposed of at exit."""
    engine = make_engine(
        database_url, application_name=application_name, pool_size=pool_size, command_timeout_s=command_timeout_s
    )
    try:
        await check(engine, database_url)
        yield engine
    finally:
        await engine.dispose()


async def check(engine: AsyncEngine, database_url: SecretStr) -> None:
    """Raises Unreachable when the server does not answer or refuses us."""
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (*UNREACHABLE, asyncpg.PostgresError, SQLAlchemyError) as exc:
        raise unreachable(database_url, exc) from exc


def unreachable(database_url: SecretStr, exc: BaseException) -> Unreachable:
    return Unreachable(f"PostgreSQL cannot be used at {address(database_url)}: {one_line(exc)}")


def address(database_url: SecretStr) -> str:
    """Hosts, ports and database of the URL, never its user, password or options."""
    parts = urlsplit(database_url.get_secret_value())
    hosts = unquote(parts.netloc.rpartition("@")[2])
    options = parse_qs(parts.query)
    if not hosts:
        hosts = ",".join(options.get("host", ["localhost"]))
        hosts += "".join(f":{port}" for port in options.get("port", [])[:1])
    return f"{hosts}/{unquote(parts.path).lstrip('/')}".rstrip("/")


def _to_json(value: Any) -> str:
    return to_json(value).decode()
