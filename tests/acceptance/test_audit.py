"""`fleet audit`, as an operator runs it."""

import asyncio
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from admin_api.database import open_database
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import audit_heads, audit_log
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


async def _forget(url: str, tenant: str) -> None:
    """Every trace of the tenant's chain."""
    async with open_database(SecretStr(url)) as database, database.transaction() as connection:
        await connection.execute(audit_log.delete().where(audit_log.c.tenant == tenant))
        await connection.execute(audit_heads.delete().where(audit_heads.c.chain == audit.chain_of(tenant)))


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


def test_an_export_shows_later_what_was_removed(database_url: str, tmp_path: Path) -> None:
    env = {"DATABASE_URL": database_url}
    asyncio.run(_write(database_url, None, "acme", "globex"))
    exported, of_acme = run("audit", "export", env=env), run("audit", "export", "--tenant", "acme", env=env)
    earlier = tmp_path / "audit.jsonl"
    earlier.write_text(exported.stdout)

    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [line["tenant"] for line in lines] == ["globex", "acme", None]
    assert of_acme.stdout.splitlines() == exported.stdout.splitlines()[1:2]
    assert run("audit", "verify", "--against", str(earlier), env=env).returncode == 0

    asyncio.run(_forget(database_url, "globex"))
    assert run("audit", "verify", env=env).returncode == 0
    gone = run("audit", "verify", "--against", str(earlier), env=env)
    assert (gone.returncode, f"globex lacks row {lines[0]['seq']} of {earlier}" in gone.stderr) == (1, True)

    earlier.write_text("{}")
    assert "line 1, is no line of an export" in run("audit", "verify", "--against", str(earlier), env=env).stderr


@pytest.mark.parametrize("url", ["", "mysql://x"])
def test_needs_the_address_of_the_database(url: str) -> None:
    refused = run("audit", "verify", env={"DATABASE_URL": url})

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "DATABASE_URL" in refused.stderr
