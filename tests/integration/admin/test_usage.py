"""Usage and cost, by whatever they are grouped by."""

import csv
import io
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text

from admin_api.control_plane import ControlPlane
from contracts.wire import utc_now
from migrations.schema import llm_provider_usage, llm_usage_events
from tests.integration.admin.conftest import client_of

DAY = date(2026, 11, 20)
PERIOD = {"from": "2026-11-01", "to": "2026-11-30"}
NOTHING = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "total_cost": "0",
    "unpriced_count": 0,
    "request_count": 0,
    "error_count": 0,
}


async def book(plane: ControlPlane, *, provider_id: str, tenant: str, provider: str = "openai", **fields: Any) -> None:
    row = {
        "provider_id": provider_id,
        "tenant": tenant,
        "provider": provider,
        "date": DAY,
        "model": "gpt-4o-mini",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "cache_read_tokens": 1,
        "cache_write_tokens": 2,
        "reasoning_tokens": 3,
        "total_cost": Decimal("0.0000135"),
        "unpriced_count": 0,
        "request_count": 1,
        "error_count": 0,
        **fields,
    }
    async with plane.database.transaction() as connection:
        await connection.execute(insert(llm_provider_usage).values(**row))


@pytest.fixture
def provider_id() -> str:
    return str(uuid.uuid4())


async def test_usage_of_a_provider_by_day_and_model(plane: ControlPlane, api: httpx.AsyncClient, acme: str) -> None:
    added = (await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})).json()
    await book(plane, provider_id=added["id"], tenant=acme)
    await book(plane, provider_id=added["id"], tenant=acme, model="o4", total_cost=Decimal("1.5"), unpriced_count=2)
    await book(plane, provider_id=added["id"], tenant=acme, date=DAY + timedelta(days=1), error_count=1)
    await book(plane, provider_id=added["id"], tenant=acme, date=DAY + timedelta(days=40))
    await book(plane, provider_id=str(uuid.uuid4()), tenant=acme)

    found = (await api.get(f"/api/v1/llm-providers/{added['id']}/usage", params=PERIOD)).json()

    assert [(item["date"], item["model"]) for item in found["items"]] == [
        ("2026-11-20", "gpt-4o-mini"),
        ("2026-11-20", "o4"),
        ("2026-11-21", "gpt-4o-mini"),
    ]
    assert found["items"][0] == {
        "date": "2026-11-20",
        "model": "gpt-4o-mini",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "cache_read_tokens": 1,
        "cache_write_tokens": 2,
        "reasoning_tokens": 3,
        "total_cost": "0.0000135",
        "unpriced_count": 0,
        "request_count": 1,
        "error_count": 0,
    }
    assert found["totals"] == {
        "prompt_tokens": 30,
        "completion_tokens": 60,
        "cache_read_tokens": 3,
        "cache_write_tokens": 6,
        "reasoning_tokens": 9,
        "total_cost": "1.500027",
        "unpriced_count": 2,
        "request_count": 3,
        "error_count": 1,
    }


async def test_a_provider_without_usage_has_zero_totals(api: httpx.AsyncClient, acme: str) -> None:
    added = (await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})).json()

    assert (await api.get(f"/api/v1/llm-providers/{added['id']}/usage")).json() == {"items": [], "totals": NOTHING}


async def test_the_last_thirty_days_unless_said_otherwise(
    plane: ControlPlane, api: httpx.AsyncClient, acme: str, provider_id: str
) -> None:
    today = utc_now().date()
    for days in (0, 29, 30):
        await book(plane, provider_id=provider_id, tenant=acme, date=today - timedelta(days=days))

    found = (await api.get("/api/v1/usage")).json()

    assert [item["date"] for item in found["items"]] == [str(today - timedelta(days=29)), str(today)]


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("day", [{"date": "2026-11-20"}]),
        ("model", [{"model": "gpt-4o-mini"}, {"model": "o4"}]),
        ("provider", [{"provider": "anthropic"}, {"provider": "openai"}]),
        ("tenant", [{"tenant": "acme"}, {"tenant": "globex"}]),
        (
            "tenant,model",
            [
                {"tenant": "acme", "model": "gpt-4o-mini"},
                {"tenant": "acme", "model": "o4"},
                {"tenant": "globex", "model": "gpt-4o-mini"},
            ],
        ),
    ],
)
async def test_groups_the_usage_of_all(
    plane: ControlPlane, api: httpx.AsyncClient, group_by: str, expected: list[dict[str, str]]
) -> None:
    await book(plane, provider_id="p1", tenant="acme")
    await book(plane, provider_id="p1", tenant="acme", model="o4")
    await book(plane, provider_id="p2", tenant="globex", provider="anthropic")

    found = (await api.get("/api/v1/usage", params={"group_by": group_by, **PERIOD})).json()

    assert [{name: item[name] for name in expected[0]} for item in found["items"]] == expected
    assert all(set(item) == set(expected[0]) | set(NOTHING) for item in found["items"])
    assert found["totals"]["request_count"] == 3


async def test_by_agent_from_the_single_events(plane: ControlPlane, api: httpx.AsyncClient) -> None:
    at = datetime(2026, 11, 20, 12, tzinfo=UTC)

    def event(number: int, agent: str, outcome: str, cost: Decimal | None) -> dict[str, Any]:
        return {
            "id": f"r{number}:1",
            "day": DAY,
            "request_id": f"r{number}",
            "attempt": 1,
            "tenant": "acme",
            "agent": agent,
            "provider": "openai",
            "provider_id": "p1",
            "endpoint": "default",
            "model": "gpt-4o-mini",
            "outcome": outcome,
            "started_at": at,
            "finished_at": at,
            "duration_s": 1.0,
            "queued_s": 0.0,
            "input_tokens": 5,
            "output_tokens": 6,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "usage_source": "vendor",
            "cost": cost,
            "price_source": "catalogue" if cost is not None else "none",
        }

    async with plane.database.transaction() as connection:
        await connection.execute(
            text(
                "CREATE TABLE IF NOT EXISTS usage_of_this_test PARTITION OF llm_usage_events "
                "FOR VALUES FROM ('2026-11-20') TO ('2026-11-21')"
            )
        )
        await connection.execute(
            insert(llm_usage_events),
            [
                event(1, "planner", "completed", Decimal("0.5")),
                event(2, "planner", "failed", None),
                event(3, "writer", "abandoned", None),
            ],
        )

    found = (await api.get("/api/v1/usage", params={"group_by": "agent", **PERIOD})).json()

    assert [(item["agent"], item["request_count"], item["total_cost"]) for item in found["items"]] == [
        ("planner", 2, "0.5"),
        ("writer", 1, "0"),
    ]
    assert found["items"][0]["prompt_tokens"] == 10
    assert (found["totals"]["unpriced_count"], found["totals"]["error_count"]) == (2, 2)


async def test_as_csv_by_accept_or_format(plane: ControlPlane, api: httpx.AsyncClient) -> None:
    await book(plane, provider_id="p1", tenant="acme", model='=cmd("x"),y')

    by_accept = await api.get(
        "/api/v1/usage", params={"group_by": "day,model", **PERIOD}, headers={"Accept": "text/csv"}
    )
    by_format = await api.get("/api/v1/usage", params={"group_by": "day,model", "format": "csv", **PERIOD})
    as_json = await api.get(
        "/api/v1/usage", params={"group_by": "model", "format": "json", **PERIOD}, headers={"Accept": "text/csv"}
    )

    assert by_accept.headers["content-type"].startswith("text/csv")
    assert by_accept.text == by_format.text
    assert list(csv.DictReader(io.StringIO(by_accept.text))) == [
        {
            "date": "2026-11-20",
            "model": '\'=cmd("x"),y',
            "prompt_tokens": "10",
            "completion_tokens": "20",
            "cache_read_tokens": "1",
            "cache_write_tokens": "2",
            "reasoning_tokens": "3",
            "total_cost": "0.0000135",
            "unpriced_count": "0",
            "request_count": "1",
            "error_count": "0",
        }
    ]
    assert as_json.json()["items"][0]["model"] == '=cmd("x"),y'


@pytest.mark.parametrize(
    "query",
    [
        {"group_by": "week"},
        {"group_by": ""},
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"from": "0001-01-01"},
        {"from": "yesterday"},
        {"format": "xml"},
        {"tenant": "a b"},
    ],
)
async def test_refuses_questions_that_make_no_sense(api: httpx.AsyncClient, query: dict[str, str]) -> None:
    assert (await api.get("/api/v1/usage", params=query)).status_code == 422


async def test_a_scoped_caller_sees_its_tenants_usage_only(
    plane: ControlPlane, api: httpx.AsyncClient, acme: str
) -> None:
    await book(plane, provider_id="p1", tenant=acme)
    await book(plane, provider_id="p2", tenant="globex")
    token = await api.post("/api/v1/tokens", json={"name": "t", "role": "viewer", "tenant": acme})

    async with client_of(plane, token.json()["token"]) as client:
        found = (await client.get("/api/v1/usage", params={"group_by": "tenant", **PERIOD})).json()

    assert [item["tenant"] for item in found["items"]] == [acme]
