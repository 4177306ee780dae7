"""The schema's history on a real server."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, text

from migrations import is_current, upgrade
from migrations.engine import address, make_engine
from migrations.schema import metadata
from runtime.broker import Unreachable
from tests.integration.usage.conftest import Books
from tests.ports import free_port


async def test_several_upgrades_at_once_make_one_schema(empty_database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(upgrade, empty_database_url) for _ in range(4)))

    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        assert await connection.fetchval("SELECT count(*) FROM tenants") == 0
    finally:
        await connection.close()


async def test_the_history_leads_to_the_tables_of_the_program(books: Books) -> None:
    def differences(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    async with books.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await is_current(connection)


async def test_a_database_without_tables_is_not_current_and_a_newer_one_is(empty_database_url: str) -> None:
    engine = make_engine(SecretStr(empty_database_url), application_name="test")
    async with engine.begin() as connection:
        assert not await is_current(connection)
        await connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
        assert await is_current(connection)
    await engine.dispose()


async def test_upgrading_takes_every_form_of_the_url(empty_database_url: str) -> None:
    short = empty_database_url.replace("postgresql://", "postgres://", 1)

    await asyncio.to_thread(upgrade, f"{short}?sslmode=disable&connect_timeout=5&gssencmode=disable")


async def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    port = free_port()

    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}/fleet") as refused:
        await asyncio.to_thread(upgrade, f"postgresql://somebody:hunter2@127.0.0.1:{port}/fleet")

    assert "hunter2" not in str(refused.value)


async def test_a_wrong_password_is_refused_in_one_line(empty_database_url: str) -> None:
    where = urlsplit(empty_database_url)
    if not where.password:
        pytest.fail("the test's server must ask for a password")

    with pytest.raises(Unreachable, match="password authentication failed") as refused:
        await asyncio.to_thread(upgrade, empty_database_url.replace(where.password, "hunter2"))

    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@db.example:6543/fleet?sslmode=require", "db.example:6543/fleet"),
        ("postgres://db1:1,db2:2/fleet", "db1:1,db2:2/fleet"),
        ("postgresql:///fleet?host=/run/postgresql&port=5433&password=p", "/run/postgresql:5433/fleet"),
        ("postgresql://u:p%40ss@[::1]/fleet", "[::1]/fleet"),
    ],
)
def test_an_address_shows_no_credentials(url: str, shown: str) -> None:
    assert address(SecretStr(url)) == shown
