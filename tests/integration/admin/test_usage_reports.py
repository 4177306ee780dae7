"""Usage and cost as the ledger booked them, by whatever they are grouped by."""

import csv
import io
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import SecretStr

from contracts.usage import Outcome, Usage, UsageRecord, UsageSource
from contracts.wire import utc_now
from migrations.engine import make_engine
from tests.integration.admin.conftest import client_of
from tests.usage import USED_AT, record
from workers.usage.ledger import Ledger

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
USED = Usage(
    input_tokens=10,
    output_tokens=20,
    cache_read_tokens=1,
    cache_write_tokens=2,
    reasoning_tokens=3,
    source=UsageSource.VENDOR,
)

Book = Callable[..., Awaitable[object]]


@pytest_asyncio.fixture
async def book(database_url: str) -> AsyncGenerator[Book]:
    engine = make_engine(SecretStr(database_url), application_name="test")
    ledger = Ledger(engine)
    yield lambda *records: ledger.book(records)
    await engine.dispose()


def used(**fields: Any) -> UsageRecord:
    return record(usage=USED, **fields)


async def items(api: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    return (await api.get("/api/v1/usage", params={**PERIOD, **query})).json()["items"]


async def test_usage_of_a_provider_by_day_and_model(book: Book, api: httpx.AsyncClient, acme: str) -> None:
    added = (await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})).json()
    of_it = {"provider_id": added["id"], "tenant": acme, "provider": "mock"}
    await book(
        used(**of_it),
        used(**of_it, model="o4", cost="1.5"),
        used(**of_it, model="o4", cost=None),
        used(**of_it, started_at=USED_AT + timedelta(days=1), outcome=Outcome.FAILED),
        used(**of_it, started_at=USED_AT + timedelta(days=40)),
        used(tenant=acme, provider_id=str(uuid.uuid4())),
    )
    address = f"/api/v1/llm-providers/{added['id']}/usage"

    found = (await api.get(address, params=PERIOD)).json()

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
        "prompt_tokens": 40,
        "completion_tokens": 80,
        "cache_read_tokens": 4,
        "cache_write_tokens": 8,
        "reasoning_tokens": 12,
        "total_cost": "1.500027",
        "unpriced_count": 1,
        "request_count": 4,
        "error_count": 1,
    }
    page = (await api.get(address, params={**PERIOD, "limit": 2})).json()
    rest = (await api.get(address, params={**PERIOD, "limit": 2, "cursor": page["next"]})).json()
    assert page["items"] + rest["items"] == found["items"]


async def test_a_provider_without_usage_has_zero_totals(api: httpx.AsyncClient, acme: str) -> None:
    added = (await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})).json()

    found = (await api.get(f"/api/v1/llm-providers/{added['id']}/usage")).json()

    assert found == {"items": [], "totals": NOTHING, "next": None}


async def test_the_last_thirty_days_unless_said_otherwise(book: Book, api: httpx.AsyncClient) -> None:
    now = utc_now()
    await book(*(used(started_at=now - timedelta(days=days)) for days in (0, 29, 30)))

    found = (await api.get("/api/v1/usage")).json()

    assert [item["date"] for item in found["items"]] == [str((now - timedelta(days=n)).date()) for n in (29, 0)]


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("day", [{"date": "2026-11-20"}]),
        ("hour", [{"hour": "2026-11-20T12:00:00Z"}, {"hour": "2026-11-20T23:00:00Z"}]),
        ("model", [{"model": "gpt-4o-mini"}, {"model": "o4"}]),
        ("provider", [{"provider": "anthropic"}, {"provider": "openai"}]),
        ("tenant", [{"tenant": "acme"}, {"tenant": "globex"}]),
        ("agent", [{"agent": "planner-1"}, {"agent": "writer"}]),
        (
            "tenant,model",
            [
                {"tenant": "acme", "model": "gpt-4o-mini"},
                {"tenant": "acme", "model": "o4"},
                {"tenant": "globex", "model": "gpt-4o-mini"},
            ],
        ),
        (
            "hour,tenant",
            [
                {"hour": "2026-11-20T12:00:00Z", "tenant": "acme"},
                {"hour": "2026-11-20T12:00:00Z", "tenant": "globex"},
                {"hour": "2026-11-20T23:00:00Z", "tenant": "acme"},
            ],
        ),
        (
            "day,agent,model",
            [
                {"date": "2026-11-20", "agent": "planner-1", "model": "gpt-4o-mini"},
                {"date": "2026-11-20", "agent": "writer", "model": "gpt-4o-mini"},
                {"date": "2026-11-20", "agent": "writer", "model": "o4"},
            ],
        ),
    ],
)
async def test_groups_the_usage_of_all_whole_and_in_pages(
    book: Book, api: httpx.AsyncClient, group_by: str, expected: list[dict[str, str]]
) -> None:
    await book(
        used(provider_id="p1", tenant="acme", started_at=USED_AT + timedelta(minutes=59)),
        used(provider_id="p1", tenant="acme", model="o4", agent="writer", started_at=USED_AT.replace(hour=23)),
        used(provider_id="p2", tenant="globex", provider="anthropic", agent="writer"),
    )

    found = (await api.get("/api/v1/usage", params={"group_by": group_by, **PERIOD})).json()
    pages, cursor = [], None
    while cursor or not pages:
        query = {"group_by": group_by, "limit": "1", **PERIOD} | ({"cursor": cursor} if cursor else {})
        pages.append((await api.get("/api/v1/usage", params=query)).json())
        cursor = pages[-1]["next"]

    assert [{name: item[name] for name in expected[0]} for item in found["items"]] == expected
    assert all(set(item) == set(expected[0]) | set(NOTHING) for item in found["items"])
    assert found["totals"]["request_count"] == 3
    assert [item for page in pages for item in page["items"]] == found["items"]
    assert all(page["totals"] == found["totals"] for page in pages)


@pytest.mark.parametrize(
    ("only", "costs"),
    [
        ({"tenant": "acme"}, {"acme": "3"}),
        ({"provider": "anthropic"}, {"globex": "4"}),
        ({"model": "o4"}, {"acme": "2"}),
        ({"agent": "writer"}, {"acme": "2", "globex": "4"}),
        ({"agent": "writer", "model": "o4"}, {"acme": "2"}),
        ({"tenant": "acme", "provider": "anthropic"}, {}),
    ],
)
async def test_tells_of_some_only(
    book: Book, api: httpx.AsyncClient, only: dict[str, str], costs: dict[str, str]
) -> None:
    await book(
        used(provider_id="p1", tenant="acme", cost="1"),
        used(provider_id="p1", tenant="acme", model="o4", agent="writer", cost="2"),
        used(provider_id="p2", tenant="globex", provider="anthropic", agent="writer", cost="4"),
    )

    whole, page = [
        (await api.get("/api/v1/usage", params={"group_by": "tenant", "limit": limit, **only, **PERIOD})).json()
        for limit in (1000, 1)
    ]

    assert {item["tenant"]: item["total_cost"] for item in whole["items"]} == costs
    assert page["items"] == whole["items"][:1]
    assert page["totals"] == whole["totals"]
    assert page["totals"]["total_cost"] == str(sum(map(int, costs.values())))


async def test_what_has_no_price_is_unpriced_and_not_free(book: Book, api: httpx.AsyncClient) -> None:
    await book(
        used(agent="planner", cost="0.5"),
        used(agent="planner", cost=None),
        used(agent="writer", cost=None, outcome=Outcome.ABANDONED),
        used(agent="free", cost="0"),
    )

    found = {item["agent"]: (item["total_cost"], item["unpriced_count"]) for item in await items(api, group_by="agent")}
    as_csv = (await api.get("/api/v1/usage", params={"group_by": "agent", "format": "csv", **PERIOD})).text

    assert found == {"free": ("0", 0), "planner": ("0.5", 1), "writer": (None, 1)}
    assert {row["agent"]: row["total_cost"] for row in csv.DictReader(io.StringIO(as_csv))} == {
        "free": "0",
        "planner": "0.5",
        "writer": "",
    }


async def test_as_csv_by_accept_or_format(book: Book, api: httpx.AsyncClient) -> None:
    await book(used(model='=cmd("x"),y'), used(started_at=USED_AT + timedelta(days=1)))

    query = {"group_by": "day,model", "limit": "1", **PERIOD}
    by_accept = await api.get("/api/v1/usage", params=query, headers={"Accept": "text/csv"})
    by_format = await api.get("/api/v1/usage", params={"format": "csv", **query})
    as_json = await api.get(
        "/api/v1/usage", params={"group_by": "model", "format": "json", **PERIOD}, headers={"Accept": "text/csv"}
    )

    assert by_accept.headers["content-type"].startswith("text/csv")
    assert by_accept.text == by_format.text
    first, second = csv.DictReader(io.StringIO(by_accept.text))
    assert first == {
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
    assert second["date"] == "2026-11-21"
    assert as_json.json()["items"][0]["model"] == '=cmd("x"),y'


async def test_refuses_questions_that_make_no_sense(api: httpx.AsyncClient) -> None:
    questions = [
        {"group_by": "week"},
        {"group_by": ""},
        {"group_by": "hour,agent"},
        {"group_by": "hour", "agent": "planner-1"},
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"from": "0001-01-01"},
        {"from": "yesterday"},
        {"format": "xml"},
        {"tenant": "a b"},
        {"provider": "acme"},
        {"limit": "0"},
        {"cursor": "?"},
        {"group_by": "day", "cursor": "WyJ4Il0"},
        {"group_by": "day,model", "cursor": "WyIyMDI2LTExLTIwIl0"},
    ]

    answers = [await api.get("/api/v1/usage", params=query) for query in questions]

    assert [answer.status_code for answer in answers] == [422] * len(questions)


async def test_a_scoped_caller_sees_its_tenants_usage_only(
    app: FastAPI, book: Book, api: httpx.AsyncClient, acme: str
) -> None:
    await book(used(provider_id="p1", tenant=acme), used(provider_id="p2", tenant="globex"))
    token = await api.post("/api/v1/tokens", json={"name": "t", "role": "viewer", "tenant": acme})

    async with client_of(app, token.json()["token"]) as client:
        found = await items(client, group_by="tenant")

    assert [item["tenant"] for item in found] == [acme]
