"""Alerts, as rows that somebody else wrote: listed and acknowledged."""

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from admin_api.database import Database
from contracts.wire import utc_now
from migrations.schema import alerts, audit_log

ALERTS = "/api/v1/alerts"
NOW = utc_now()
DAY = date(2026, 11, 23)


async def write(database: Database, tenant: str, *, age_s: int = 0, **fields: Any) -> str:
    row = {
        "id": uuid.uuid4(),
        "tenant": tenant,
        "kind": "daily_cost",
        "day": DAY - timedelta(days=age_s),
        "window_start": datetime.combine(DAY - timedelta(days=age_s), time.min, UTC),
        "threshold_usd": Decimal(100),
        "amount_usd": Decimal("100.0000000100"),
        "message": "cost more than 100 USD",
        "created_at": NOW - timedelta(seconds=age_s),
        **fields,
    }
    async with database.transaction() as connection:
        await connection.execute(alerts.insert().values(row))
    return str(row["id"])


async def test_shows_an_alert_with_its_money_as_text(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    written = await write(database, acme)

    assert (await api.get(ALERTS)).json() == {
        "items": [
            {
                "id": written,
                "tenant": acme,
                "kind": "daily_cost",
                "about": "",
                "window_start": "2026-11-23T00:00:00Z",
                "day": "2026-11-23",
                "threshold_usd": "100",
                "amount_usd": "100.00000001",
                "threshold": None,
                "measured": None,
                "message": "cost more than 100 USD",
                "created_at": NOW.isoformat().replace("+00:00", "Z"),
                "resolved_at": None,
                "acknowledged_at": None,
                "acknowledged_by": None,
            }
        ],
        "next": None,
    }


async def test_lists_the_newest_first_page_by_page(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    written = [await write(database, acme, age_s=age_s) for age_s in range(5)]

    found: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = (await api.get(ALERTS, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]

    assert (found, cursor) == (written, None)


async def test_alerts_of_one_moment_are_all_listed(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    written = {await write(database, acme, kind=f"k{number}") for number in range(3)}

    first = (await api.get(ALERTS, params={"limit": 2})).json()
    second = (await api.get(ALERTS, params={"limit": 2, "cursor": first["next"]})).json()

    assert {item["id"] for item in first["items"] + second["items"]} == written


async def test_filters_by_tenant_kind_and_state(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    mine = await write(database, acme)
    budget = await write(database, acme, kind="budget", age_s=1)
    theirs = await write(database, f"{acme}-other", age_s=2)
    await api.post(f"{ALERTS}/{mine}/acknowledge")

    async def ids(**params: str) -> list[str]:
        return [item["id"] for item in (await api.get(ALERTS, params=params)).json()["items"]]

    assert await ids() == [mine, budget, theirs]
    assert await ids(tenant=acme) == [mine, budget]
    assert await ids(kind="budget") == [budget]
    assert await ids(state="open") == [budget, theirs]
    assert await ids(state="acknowledged") == [mine]
    assert await ids(state="acknowledged", kind="budget") == []


async def test_what_is_over_is_told_from_what_was_seen(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    lasting = await write(database, acme, kind="error_rate", about="openai")
    over = await write(database, acme, kind="error_rate", about="google", age_s=1, resolved_at=NOW)
    seen = await write(database, acme, kind="key_refused", about="openai", age_s=2, resolved_at=NOW)
    await api.post(f"{ALERTS}/{seen}/acknowledge")

    async def ids(*states: str, **params: str) -> list[str]:
        answer = await api.get(ALERTS, params=[*(("state", state) for state in states), *params.items()])
        return [item["id"] for item in answer.json()["items"]]

    assert await ids("unresolved") == [lasting]
    assert await ids("resolved") == [over, seen]
    assert await ids("resolved", "open") == [over]
    assert await ids("resolved", "unresolved") == []
    assert await ids(about="openai") == [lasting, seen]


async def test_who_acknowledges_first_is_noted_once(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    written = await write(database, acme)
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "tenant_admin", "tenant": acme})).json()

    first = await api.post(f"{ALERTS}/{written}/acknowledge", headers={"Authorization": f"Bearer {token['token']}"})
    second = await api.post(f"{ALERTS}/{written}/acknowledge")

    assert first.status_code == second.status_code == 200
    assert first.json()["acknowledged_by"] == f"token:{token['id']}"
    assert first.json()["acknowledged_at"] is not None
    assert second.json() == first.json()
    async with database.transaction() as connection:
        query = select(func.count()).where(audit_log.c.action == "alert.acknowledge", audit_log.c.tenant == acme)
        assert await connection.scalar(query) == 1


async def test_there_is_nothing_to_acknowledge(api: httpx.AsyncClient) -> None:
    assert (await api.post(f"{ALERTS}/{uuid.uuid4()}/acknowledge")).status_code == 404
    assert (await api.post(f"{ALERTS}/1/acknowledge")).status_code == 422


@pytest.mark.parametrize(
    "params",
    [
        {"state": "new"},
        {"kind": "a b"},
        {"cursor": "garbage"},
        {"cursor": "WyIxIl0"},
        {"cursor": "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzIzOjU5IiwiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwIl0"},
    ],
)
async def test_refuses_what_makes_no_sense(api: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert (await api.get(ALERTS, params=params)).status_code == 422
