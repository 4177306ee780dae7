"""GET /api/v1/audit"""

import json
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from admin_api.database import Database
from contracts.wire import utc_now
from migrations.audit import Change, Origin, broken_at, record
from tests.integration.admin.conftest import client_of

AUDIT = "/api/v1/audit"


async def read(api: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await api.get(AUDIT, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def budgets(api: httpx.AsyncClient, tenant: str, count: int) -> None:
    for budget in range(1, count + 1):
        await api.put(f"/api/v1/tenants/{tenant}", json={"daily_budget_usd": budget})


async def test_tells_who_changed_what(api: httpx.AsyncClient, acme: str) -> None:
    await budgets(api, acme, 1)

    changed, added = await read(api, tenant=acme)

    assert (changed["actor"], changed["source"], changed["action"]) == ("bootstrap", "127.0.0.1", "tenant.change")
    assert (changed["object_type"], changed["object_id"], changed["tenant"]) == ("tenant", acme, acme)
    assert (changed["before"]["daily_budget_usd"], changed["after"]["daily_budget_usd"]) == (None, "1")
    assert (added["action"], added["before"]) == ("tenant.add", None)
    assert changed["prev_hash"] == added["hash"]


async def test_lists_the_newest_first_page_by_page(api: httpx.AsyncClient, acme: str) -> None:
    await budgets(api, acme, 5)
    everything = await read(api)

    found: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(3):
        page = (await api.get(AUDIT, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        found += page["items"]
        cursor = page["next"]

    assert [entry["seq"] for entry in everything] == sorted((entry["seq"] for entry in everything), reverse=True)
    assert (found, cursor) == (everything, None)


async def test_filters(app: FastAPI, api: httpx.AsyncClient, acme: str) -> None:
    added = (await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})).json()
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "admin"})).json()
    async with client_of(app, token["token"]) as other:
        await other.delete(f"/api/v1/llm-providers/{added['id']}")
    now = utc_now()
    yesterday, tomorrow = (now - timedelta(days=1)).date().isoformat(), (now + timedelta(days=1)).date().isoformat()

    async def actions(**params: Any) -> list[str]:
        return [entry["action"] for entry in await read(api, **params)]

    everything = ["provider.deactivate", "token.add", "provider.add", "tenant.add"]
    assert await actions() == everything
    assert await actions(tenant=acme) == ["provider.deactivate", "provider.add", "tenant.add"]
    assert await actions(actor=f"token:{token['id']}") == ["provider.deactivate"]
    assert await actions(action="provider.add") == ["provider.add"]
    for about in ("provider", added["id"], f"provider/{added['id']}"):
        assert await actions(object=about) == ["provider.deactivate", "provider.add"]
    assert await actions(object=f"token/{added['id']}") == []
    assert await actions(**{"from": yesterday, "to": tomorrow}) == everything
    assert await actions(to=yesterday) == []
    assert await actions(to=now.date().isoformat()) == everything
    assert await actions(**{"from": now.isoformat()}) == []
    assert await actions(to=now.isoformat()) == everything


async def test_scoped_callers_see_their_tenant_only(app: FastAPI, api: httpx.AsyncClient, acme: str) -> None:
    await api.post("/api/v1/tenants", json={"slug": f"{acme}-other"})
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "viewer", "tenant": acme})).json()["token"]
    await api.post("/api/v1/tokens", json={"name": "n", "role": "viewer"})

    async with client_of(app, token) as client:
        seen = await read(client)
        exported = (await client.get(AUDIT, params={"format": "jsonl"})).text.splitlines()

    assert {entry["tenant"] for entry in seen} == {acme}
    assert [json.loads(line) for line in exported] == seen


@pytest.mark.parametrize(("params", "headers"), [({"format": "jsonl"}, {}), ({}, {"Accept": "application/x-ndjson"})])
async def test_exports_every_entry_as_json_lines(
    database: Database, api: httpx.AsyncClient, acme: str, params: dict[str, str], headers: dict[str, str]
) -> None:
    async with database.transaction() as connection:
        for number in range(1100):
            origin = Origin("somebody", "10.0.0.1")
            change = Change("test.change", "test", str(number), acme, before=None, after={"n": number})
            await record(connection, change, origin)

    answer = await api.get(AUDIT, params=params | {"action": "test.change", "limit": 2}, headers=headers)

    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["after"]["n"] for line in lines] == list(reversed(range(1100)))
    assert lines[:2] == await read(api, action="test.change", limit=2)


async def test_an_export_of_nothing_is_empty(api: httpx.AsyncClient) -> None:
    answer = await api.get(AUDIT, params={"action": "never", "format": "jsonl"})

    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize(
    "params",
    [
        {"from": "yesterday"},
        {"from": "2026-13-01"},
        {"to": "2026-11-23T12:00:00"},
        {"from": "0001-01-01T00:00:00+23:59"},
        {"to": "9999-12-31"},
        {"format": "xml"},
        {"actor": "\0"},
        {"cursor": "WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Il0"},
    ],
)
async def test_refuses_what_makes_no_sense(api: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert (await api.get(AUDIT, params=params)).status_code == 422


async def test_what_is_listed_suffices_to_check_a_chain(api: httpx.AsyncClient, acme: str) -> None:
    await budgets(api, acme, 3)

    rows = [
        entry
        | {"at": datetime.fromisoformat(entry["at"])}
        | {name: bytes.fromhex(entry[name]) for name in ("prev_hash", "hash")}
        for entry in reversed(await read(api, tenant=acme))
    ]

    assert len(rows) == 4
    assert broken_at(acme, rows) is None
