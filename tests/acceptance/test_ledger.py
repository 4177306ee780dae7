"""`fleet usage verify`, `rebuild` and `reprice`, as an operator runs them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.usage import Usage, UsageRecord, UsageSource
from migrations.engine import make_engine
from migrations.schema import audit_log, llm_provider_usage, llm_usage_events, tenants
from tests.acceptance.running import run
from tests.usage import USED_AT, record
from workers.usage.ledger import Ledger

T = TypeVar("T")

DAY = USED_AT.date().isoformat()
MILLION = Usage(input_tokens=1_000_000, output_tokens=0, source=UsageSource.VENDOR)


def book(url: str, *records: UsageRecord) -> None:
    async def with_ledger() -> None:
        engine = make_engine(SecretStr(url), application_name="test")
        await Ledger(engine).book(records)
        await engine.dispose()

    asyncio.run(with_ledger())


def ask(url: str, question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async def with_connection() -> T:
        engine = make_engine(SecretStr(url), application_name="test")
        try:
            async with engine.begin() as connection:
                return await question(connection)
        finally:
            await engine.dispose()

    return asyncio.run(with_connection())


def rows(url: str, sql: str) -> Sequence[Any]:
    async def question(connection: AsyncConnection) -> Sequence[Any]:
        return (await connection.execute(text(sql))).all()

    return ask(url, question)


def test_finds_what_differs_and_puts_it_right(database_url: str) -> None:
    env = {"DATABASE_URL": database_url}
    book(database_url, record(tenant="acme", cost="0.5"), record(tenant="acme", cost="0.25"))
    assert run("usage", "verify", env=env).returncode == 0
    ask(database_url, lambda connection: connection.execute(update(llm_provider_usage).values(total_cost=1)))

    wrong = run("usage", "verify", env=env)
    elsewhere = run("usage", "verify", "--from", "2026-11-21", env=env)
    mended = run("usage", "rebuild", "--from", DAY, "--to", DAY, env=env)

    assert wrong.returncode == 1
    assert "total_cost" in wrong.stdout
    assert "1 differ" in wrong.stdout
    assert wrong.stderr.startswith("fleet: roll-ups and events differ")
    assert elsewhere.returncode == 0
    assert "1 of 1 days were mended" in mended.stdout
    assert run("usage", "verify", env=env).returncode == 0
    assert [str(cost) for (cost,) in rows(database_url, "SELECT total_cost FROM llm_provider_usage")] == [
        "0.7500000000"
    ]


def test_prices_anew_at_the_tenants_price_and_notes_it(database_url: str) -> None:
    env = {"DATABASE_URL": database_url}
    book(
        database_url,
        record("r", tenant="acme", model="own-model", usage=MILLION, cost=None),
        record(tenant="globex", model="own-model", usage=MILLION, cost=None, provider_id="p2"),
    )
    prices = {"own-model": {"input_mtok": "2.5", "output_mtok": "0"}}
    ask(database_url, lambda connection: connection.execute(insert(tenants).values(slug="acme", prices=prices)))

    done = run("usage", "reprice", "--from", DAY, "--to", DAY, env=env)
    again = run("usage", "reprice", "--from", DAY, "--to", DAY, "--tenant", "acme", env=env)

    assert (done.returncode, again.stdout) == (0, "No price changed.\n"), done
    assert "2.5" in done.stdout
    assert "globex" not in done.stdout
    events = llm_usage_events.c
    (event,) = ask(
        database_url,
        lambda connection: connection.execute(
            select(events.cost, events.price_source, events.price).where(events.tenant == "acme")
        ),
    )
    assert (str(event.cost), event.price_source, event.price["input_mtok"]) == ("2.5000000000", "tenant", "2.5")
    (noted,) = ask(database_url, lambda connection: connection.execute(select(audit_log)))
    assert (noted.action, noted.tenant, noted.object_id) == ("usage.reprice", "acme", DAY)
    assert (noted.before["cost"], noted.after["cost"]) == ("0", "2.5")
    assert (noted.before["unpriced"], noted.after["unpriced"]) == (1, 0)
    assert noted.actor.startswith("operator:")
    assert run("usage", "verify", env=env).returncode == 0
    assert run("audit", "verify", env=env).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [("verify",), ("rebuild",), ("reprice", "--from", DAY, "--to", DAY)],
    ids=lambda arguments: arguments[0],
)
def test_needs_a_database_with_tables(empty_database_url: str, arguments: tuple[str, ...]) -> None:
    refused = run("usage", *arguments, env={"DATABASE_URL": empty_database_url})

    assert refused.returncode == 1
    assert "run: fleet migrate" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
