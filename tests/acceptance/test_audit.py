"""`fleet audit verify`, as an operator runs it."""

import asyncio

import pytest
from pydantic import SecretStr

from admin_api.database import open_database
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import audit_log
from tests.acceptance.running import run


async def _write(url: str, *tenants: str | None) -> None:
    async with open_database(SecretStr(url)) as database, database.transaction() as connection:
        for tenant in tenants:
            change = Change("tenant.change", "tenant", "x", tenant, before=None, after={})
            await audit.record(connection, change, Origin("somebody", "127.0.0.1"))


async def _alter(url: str, tenant: str) -> int:
    """The row that was altered."""
    async with open_database(SecretStr(url)) as database, database.transaction() as connection:
        statement = audit_log.update().where(audit_log.c.tenant == tenant).values(actor="nobody")
        return (await connection.execute(statement.returning(audit_log.c.seq))).scalars().all()[0]


def test_verifies_every_chain_and_finds_what_was_altered(database_url: str) -> None:
    env = {"DATABASE_URL": database_url}
    asyncio.run(_write(database_url, None, "acme", "acme", "globex"))

    whole = run("audit", "verify", env=env)

    assert whole.returncode == 0, whole
    assert [line.split("  ")[:2] for line in whole.stdout.splitlines()] == [
        ["(all tenants)", "1 rows hold"],
        ["acme", "2 rows hold"],
        ["globex", "1 rows hold"],
    ]

    seq = asyncio.run(_alter(database_url, "globex"))
    broken = run("audit", "verify", env=env)

    assert broken.returncode == 1
    assert broken.stderr == f"fleet: the audit log was altered, or rows were removed: globex at row {seq}\n"
    assert run("audit", "verify", "--tenant", "acme", env=env).returncode == 0


@pytest.mark.parametrize("url", ["", "mysql://x"])
def test_needs_the_address_of_the_database(url: str) -> None:
    refused = run("audit", "verify", env={"DATABASE_URL": url})

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "DATABASE_URL" in refused.stderr
