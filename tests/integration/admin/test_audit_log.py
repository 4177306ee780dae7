"""Each change leaves a chained row, in the transaction of the change."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, select

from admin_api.database import Database
from migrations.audit import Change, Origin, broken_at, record
from migrations.schema import audit_log


async def rows_of(database: Database, tenant: str | None) -> list[dict[str, Any]]:
    query = select(audit_log).where(audit_log.c.tenant.is_not_distinct_from(tenant)).order_by(audit_log.c.seq)
    async with database.transaction() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def test_every_change_is_recorded_with_before_and_after(
    database: Database, api: httpx.AsyncClient, acme: str
) -> None:
    config = {"base_url": "https://llm.example.com", "timeouts": {"connect_s": 0.5, "total_s": 86400}}
    tenant = f"/api/v1/tenants/{acme}"
    await api.put(tenant, json={"daily_budget_usd": "1.10", "prices": {"m": {"input_mtok": "1e-3", "output_mtok": 2}}})
    await api.put(tenant, json={})
    added = await api.post(
        "/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock", "config": config, "is_default": True}
    )
    provider = f"/api/v1/llm-providers/{added.json()['id']}"
    await api.put(provider, json={"config": {}})
    await api.delete(provider)
    await api.put(provider, json={"is_active": True})
    token = await api.post("/api/v1/tokens", json={"name": "é\u2028", "role": "viewer", "tenant": acme})
    await api.delete(f"/api/v1/tokens/{token.json()['id']}")

    rows = await rows_of(database, acme)

    assert [row["action"] for row in rows] == [
        "tenant.add",
        "tenant.change",
        "provider.add",
        "provider.change",
        "provider.deactivate",
        "provider.change",
        "token.add",
        "token.revoke",
    ]
    assert {(row["actor"], row["source"]) for row in rows} == {("bootstrap", "127.0.0.1")}
    assert rows[0]["before"] is None
    assert (rows[1]["before"]["daily_budget_usd"], rows[1]["after"]["daily_budget_usd"]) == (None, "1.1")
    assert (rows[3]["before"]["config"], rows[3]["after"]["config"]) == (config, {})
    assert rows[7]["after"] is None
    assert broken_at(acme, rows) is None


async def test_a_removed_row_shows(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    for budget in (1, 2, 3):
        await api.put(f"/api/v1/tenants/{acme}", json={"daily_budget_usd": budget})
    rows = await rows_of(database, acme)
    async with database.transaction() as connection:
        await connection.execute(delete(audit_log).where(audit_log.c.seq == rows[1]["seq"]))

    assert broken_at(acme, await rows_of(database, acme)) == rows[2]["seq"]


async def test_changes_at_the_same_time_form_one_chain(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    tokens = [api.post("/api/v1/tokens", json={"name": "x", "role": "viewer"}) for _ in range(15)]
    budgets = [api.put(f"/api/v1/tenants/{acme}", json={"daily_budget_usd": budget}) for budget in range(1, 16)]

    answers = await asyncio.gather(*tokens, *budgets)

    assert {answer.status_code for answer in answers} == {200, 201}
    for tenant, length in ((acme, 16), (None, 15)):
        rows = await rows_of(database, tenant)
        assert (len(rows), broken_at(tenant, rows)) == (length, None)


async def test_a_change_that_fails_leaves_no_row(database: Database, acme: str) -> None:
    class ChangeFailed(Exception):
        pass

    async def fail_after_recording() -> None:
        async with database.transaction() as connection:
            change = Change("tenant.change", "tenant", acme, acme, before={}, after={})
            await record(connection, change, Origin("somebody", "10.0.0.1"))
            raise ChangeFailed

    with pytest.raises(ChangeFailed):
        await fail_after_recording()

    assert len(await rows_of(database, acme)) == 1
