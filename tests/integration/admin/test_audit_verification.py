"""What a check of the audit log finds, and what pruning leaves for it."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import Connection, delete, null, select, table, text, update
from sqlalchemy import column as sql_column

import migrations
from admin_api.access.refusal_counts import RefusalCounter
from admin_api.audit import log, retention, verification
from admin_api.audit.log import AuditFilter
from admin_api.audit.verification import Anchor, Chain
from admin_api.database import Database, open_database
from contracts.wire import utc_now
from migrations import audit
from migrations.audit import Change, Origin
from migrations.engine import open_engine
from migrations.schema import audit_heads
from migrations.schema import audit_log as rows

SOMEBODY = Origin("somebody", "10.0.0.1")


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    async with open_database(SecretStr(database_url)) as database:
        yield database


async def write(database: Database, tenant: str | None, count: int) -> list[int]:
    """Appends so many rows; returns the `seq` of all rows of the tenant, in order."""
    async with database.transaction() as connection:
        for number in range(count):
            change = Change("test.change", "test", str(number), tenant, before=None, after={"n": number})
            await audit.record(connection, change, SOMEBODY)
        of_tenant = select(rows.c.seq).where(rows.c.tenant.is_not_distinct_from(tenant))
        return list(await connection.scalars(of_tenant.order_by(rows.c.seq)))


async def run(database: Database, *statements: Any) -> None:
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(statement)


async def checked(database: Database, tenant: str = "acme") -> Chain:
    (chain,) = await verification.verify(database, tenant=tenant)
    return chain


async def exported(database: Database) -> list[Anchor]:
    lines = "".join([part async for part in log.export(database, AuditFilter())]).splitlines()
    return [Anchor.model_validate_json(line) for line in lines]


async def test_chains_that_nobody_touched_hold(database: Database) -> None:
    await write(database, None, 1)
    await write(database, "acme", 601)

    of_all, of_acme = await verification.verify(database)

    assert (of_all.tenant, of_all.rows, of_all.broken_at) == (None, 1, None)
    assert (of_acme.tenant, of_acme.rows, of_acme.broken_at) == ("acme", 601, None)
    assert of_acme.head == (await exported(database))[0].hash
    assert await checked(database) == of_acme
    assert await checked(database, "nobody") == Chain("nobody")


async def test_an_altered_or_removed_row_is_found(database: Database) -> None:
    seqs = await write(database, "acme", 5)

    await run(database, update(rows).where(rows.c.seq == seqs[3]).values(actor="nobody"))
    altered = await checked(database)
    await run(database, delete(rows).where(rows.c.seq == seqs[1]))
    removed = await checked(database)

    assert (altered.rows, altered.broken_at) == (3, seqs[3])
    assert (removed.rows, removed.broken_at) == (1, seqs[2])


async def test_a_changed_refusal_is_found(database: Database) -> None:
    async with database.transaction() as connection:
        refused = Change("test.change", "test", "x", "acme", before=None, after=None, refusal={"status": 403})
        await audit.record(connection, refused, SOMEBODY)
    assert (await checked(database)).broken_at is None

    await run(database, update(rows).values(refusal=None))

    assert (await checked(database)).broken_at is not None


async def test_rows_that_were_cut_off_at_the_end_are_found(database: Database) -> None:
    seqs = await write(database, "acme", 4)

    await run(database, delete(rows).where(rows.c.seq > seqs[1]))
    assert await checked(database) == Chain("acme", rows=2, head=(await exported(database))[0].hash, broken_at=seqs[3])

    later = await write(database, "acme", 1)
    assert (await checked(database)).broken_at == later[-1]


async def test_a_chain_that_was_removed_as_a_whole_is_found(database: Database) -> None:
    seqs = await write(database, "acme", 2)
    await run(database, delete(rows))

    assert await verification.verify(database) == [Chain("acme", broken_at=seqs[-1])]


async def test_a_removed_head_is_found(database: Database) -> None:
    seqs = await write(database, "acme", 2)
    await run(database, delete(audit_heads))

    assert (await checked(database)).broken_at == seqs[-1]


async def test_an_earlier_export_shows_what_its_rows_no_longer_do(database: Database) -> None:
    seqs = await write(database, "acme", 4)
    await write(database, None, 2)
    earlier = await exported(database)
    assert await verification.missing(database, earlier) == []

    await run(database, delete(rows).where(rows.c.tenant == "acme"), delete(audit_heads))
    await run(database, text("ALTER TABLE audit_log ALTER seq RESTART 1"))
    await write(database, "acme", 4)

    assert (await checked(database)).broken_at is None
    assert {anchor.seq for anchor in await verification.missing(database, earlier)} == set(seqs)


def facts(tenant: str | None, number: int, *, at: datetime) -> dict[str, Any]:
    """A row as versions without refusals wrote it."""
    return {
        "at": at,
        "actor": "somebody",
        "source": "10.0.0.1",
        "action": "test.change",
        "object_type": "test",
        "object_id": str(number),
        "tenant": tenant,
        "before": None,
        "after": None,
    }


async def age(database: Database, tenant: str, days: int, count: int) -> None:
    """Writes rows that are so old, as a chain that has only these."""
    at = utc_now() - timedelta(days=days)
    last, seq = audit.first_link(tenant), None
    async with database.transaction() as connection:
        for number in range(count):
            row = facts(tenant, number, at=at)
            values = {**row, "prev_hash": last, "hash": (last := audit.link(last, row))}
            values = {name: value for name, value in values.items() if value is not None}
            seq = await connection.scalar(rows.insert().values(values).returning(rows.c.seq))
        await connection.execute(audit_heads.insert().values(chain=audit.chain_of(tenant), seq=seq, hash=last))


async def test_pruned_rows_leave_a_chain_that_holds(database: Database) -> None:
    await age(database, "acme", days=40, count=3)
    seqs = await write(database, "acme", 2)
    earlier = await exported(database)

    assert await retention.prune(database, days=30) == 3

    chain = await checked(database)
    assert (chain.rows, chain.broken_at, chain.pruned_to) == (3, None, seqs[2])
    newest = (await log.page(database, AuditFilter(), paging=log.Paging())).items[0]
    assert (newest.action, newest.actor, newest.after and newest.after["rows"]) == ("audit.prune", "retention", 3)
    assert await verification.missing(database, earlier) == []
    assert await retention.prune(database, days=30) == 0


async def test_what_is_left_after_pruning_is_still_checked(database: Database) -> None:
    await age(database, "acme", days=40, count=3)
    seqs = await write(database, "acme", 3)
    await retention.prune(database, days=30)

    await run(database, delete(rows).where(rows.c.seq == seqs[3]))

    assert (await checked(database)).broken_at == seqs[4]


async def test_a_broken_chain_is_not_pruned(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    await age(database, "acme", days=40, count=3)
    await run(database, update(rows).where(rows.c.object_id == "1").values(actor="nobody"))

    assert await retention.prune(database, days=30) == 0

    assert [record.message for record in caplog.records] == ["audit_broken"]
    assert len(await exported(database)) == 3


async def test_old_rows_that_only_tell_of_pruning_stay(database: Database) -> None:
    await age(database, "acme", days=40, count=1)
    assert await retention.prune(database, days=30) == 1

    assert await retention.prune(database, days=-1) == 0


def migrate(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_rows_from_before_there_were_heads_still_hold(empty_database_url: str) -> None:
    older = [column for column in rows.c if column.name not in ("seq", "refusal")]
    async with (
        open_engine(SecretStr(empty_database_url), application_name="test") as engine,
        engine.begin() as connection,
    ):
        await connection.run_sync(migrate, "0003")
        for tenant in ("acme", None):
            last = audit.first_link(tenant)
            for number in range(3):
                row = facts(tenant, number, at=utc_now())
                values = {**row, "prev_hash": last, "hash": (last := audit.link(last, row))}
                absent = {name: null() for name, value in values.items() if value is None}
                statement = table("audit_log", *(sql_column(each.name, each.type) for each in older)).insert()
                await connection.execute(statement.values(values | absent))
        await connection.run_sync(migrate, "head")
    async with open_database(SecretStr(empty_database_url)) as database:
        seqs = await write(database, "acme", 1)
        assert [(chain.rows, chain.broken_at) for chain in await verification.verify(database)] == [
            (3, None),
            (4, None),
        ]

        await run(database, delete(rows).where(rows.c.seq >= seqs[2]))
        assert (await checked(database)).broken_at == seqs[3]


async def test_what_was_counted_is_written_when_the_process_ends(database: Database) -> None:
    counter = RefusalCounter(database)
    keeping = asyncio.create_task(counter.keep_recorded())
    await asyncio.sleep(0)
    counter.add(HTTPStatus.UNAUTHORIZED, "198.51.100.7")

    keeping.cancel()
    await asyncio.wait([keeping])

    (entry,) = (await log.page(database, AuditFilter(), paging=log.Paging())).items
    assert (entry.action, entry.refusal and entry.refusal["counts"]) == (
        "requests.refuse",
        {"401": {"198.51.100.7": 1}},
    )
