"""What protects the others and the bill from a tenant, and what its own admin may do about it."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from admin_api.database import Database
from admin_api.dependencies import part_of
from contracts.wire import utc_now
from tests.integration.admin.conftest import ReadConfig, client_of
from workers.usage.alerts import measures
from workers.usage.alerts.alert_counts import TenantDay

TENANTS = "/api/v1/tenants"
SET: dict[str, Any] = {
    "limits": {"requests_per_minute": 100, "tokens_per_day": 1000},
    "daily_budget_usd": "50",
    "daily_cost_alert_usd": "40",
    "prices": {"mock/b": {"input_mtok": "1", "output_mtok": "2"}},
    "max_keep_s": 3600,
}


@pytest_asyncio.fixture
async def its_admin(app: FastAPI, api: httpx.AsyncClient, acme: str) -> AsyncGenerator[httpx.AsyncClient]:
    """As an admin of the tenant, whose operator has set everything."""
    assert (await api.put(f"{TENANTS}/{acme}", json=SET)).status_code == 200
    token = await api.post("/api/v1/tokens", json={"name": "n", "role": "tenant_admin", "tenant": acme})
    async with client_of(app, token.json()["token"]) as client:
        yield client


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"daily_budget_usd": None}, ["daily_budget_usd"]),
        ({"daily_budget_usd": 0}, ["daily_budget_usd"]),
        ({"daily_budget_usd": 49}, ["daily_budget_usd"]),
        ({"limits": None}, ["limits"]),
        ({"limits": {"requests_per_minute": 0}}, ["limits.requests_per_minute"]),
        ({"limits": {"requests_per_day": 0}}, ["limits.requests_per_day"]),
        ({"limits": {"tokens_per_day": 1}}, ["limits.tokens_per_day"]),
        ({"prices": None}, ["prices"]),
        ({"prices": {"mock/b": {"input_mtok": 0, "output_mtok": 0}}}, ["prices"]),
        ({"may_lower": True}, ["may_lower"]),
        ({"max_keep_s": None}, ["max_keep_s"]),
        ({"max_keep_s": 604_800}, ["max_keep_s"]),
        ({"max_keep_s": 0}, ["max_keep_s"]),
        ({"may_lower": True, "lowered": {"daily_budget_usd": 1}}, ["may_lower"]),
        ({"lowered": {"daily_budget_usd": 1}}, ["lowered"]),
        ({"fallbacks": ["mock/b"], "daily_budget_usd": 1, "prices": {}}, ["daily_budget_usd", "prices"]),
        ({"daily_budget_usd": 50, "limits": {"requests_per_minute": 101}}, ["limits.requests_per_minute"]),
    ],
)
async def test_a_tenants_admin_lifts_no_wall_of_the_operator(
    api: httpx.AsyncClient, its_admin: httpx.AsyncClient, acme: str, change: dict[str, Any], fields: list[str]
) -> None:
    before = (await api.get(f"{TENANTS}/{acme}")).json()

    answer = await its_admin.put(f"{TENANTS}/{acme}", json=change)

    assert answer.status_code == 403
    assert [error["field"] for error in answer.json()["errors"]] == fields
    assert all(field in answer.json()["detail"] for field in fields)
    assert (await api.get(f"{TENANTS}/{acme}")).json() == before
    newest = (await api.get("/api/v1/audit", params={"tenant": acme, "limit": 1})).json()["items"][0]
    assert (newest["action"], newest["refusal"]["status"]) == ("tenant.change", 403)


async def test_one_of_two_fields_of_the_same_name_is_no_way_around(its_admin: httpx.AsyncClient, acme: str) -> None:
    for body in ('{"daily_budget_usd": "50", "daily_budget_usd": 0}', '{"daily_budget_usd": 0, "fallbacks": []}'):
        answer = await its_admin.put(f"{TENANTS}/{acme}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 403


async def test_aliases_fallbacks_and_mail_addresses_are_the_tenants(its_admin: httpx.AsyncClient, acme: str) -> None:
    wanted = {"aliases": {"fast": ["mock/b"]}, "fallbacks": ["mock/c"], "alert_emails": ["ops@example.com"]}

    answer = await its_admin.put(f"{TENANTS}/{acme}", json=wanted | {"limits": {}})

    assert (answer.status_code, answer.json()) == (200, answer.json() | wanted)


@pytest.mark.parametrize("lowering", [{}, {"may_lower": True, "lowered": {"daily_budget_usd": 5}}])
async def test_a_tenants_admin_sends_back_what_it_read_with_its_own_part_changed(
    api: httpx.AsyncClient, its_admin: httpx.AsyncClient, acme: str, lowering: dict[str, Any]
) -> None:
    rates = {"input_mtok": "1", "output_mtok": "2.50"}
    prices = {"mock/b": rates | {"service_tiers": {"flex": rates}, "long_context": [rates | {"above_input_tokens": 9}]}}
    assert (await api.put(f"{TENANTS}/{acme}", json=lowering | {"prices": prices})).status_code == 200
    read = (await its_admin.get(f"{TENANTS}/{acme}")).json()

    whole = await its_admin.put(f"{TENANTS}/{acme}", json=read | {"aliases": {"fast": ["mock/b"]}})
    in_other_words = await its_admin.put(
        f"{TENANTS}/{acme}", json={"daily_budget_usd": "50.0", "may_lower": bool(lowering), "prices": prices}
    )
    more = await its_admin.put(f"{TENANTS}/{acme}", json=read | {"aliases": {}, "daily_budget_usd": "51"})

    assert (whole.status_code, whole.json()) == (200, read | {"aliases": {"fast": ["mock/b"]}})
    assert (in_other_words.status_code, in_other_words.json()) == (200, whole.json())
    assert (more.status_code, [error["field"] for error in more.json()["errors"]]) == (403, ["daily_budget_usd"])
    assert (await its_admin.get(f"{TENANTS}/{acme}")).json() == whole.json()


async def test_a_tenant_that_may_lowers_its_own_and_raises_it_again_up_to_the_operators(
    app: FastAPI, api: httpx.AsyncClient, its_admin: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    async def in_force() -> tuple[Any, ...]:
        entry = await config_entry(f"tenant.{acme}")
        assert entry is not None
        return entry["daily_budget_usd"], entry["limits"]["requests_per_minute"], entry["limits"]["tokens_per_day"]

    async def lowered(**values: Any) -> httpx.Response:
        return await its_admin.put(f"{TENANTS}/{acme}", json={"lowered": values or None})

    async def judged_by() -> tuple[Any, ...]:
        async with part_of(app, Database).transaction() as connection:
            (spending,) = await measures.spending(connection, [TenantDay(acme, utc_now().date())])
        return spending.alert_usd, spending.budget_usd

    await api.put(f"{TENANTS}/{acme}", json={"may_lower": True})
    first = await lowered(daily_budget_usd=5, requests_per_minute=100)
    assert first.status_code == 200
    assert first.json()["lowered"] == dict.fromkeys(["requests_per_day", "tokens_per_minute", "tokens_per_day"]) | {
        "daily_budget_usd": "5",
        "requests_per_minute": 100,
    }
    assert first.json()["daily_budget_usd"] == "50", "the operator's stays"
    assert await in_force() == ("5", 100, 1000)
    assert await judged_by() == (40, 5)

    assert (await lowered(daily_budget_usd=50)).status_code == 200
    assert await in_force() == ("50", 100, 1000)
    for too_high in ({"daily_budget_usd": "50.01"}, {"requests_per_minute": 101}, {"requests_per_day": 1}):
        refused = await lowered(**too_high)
        assert refused.status_code == 403
        assert refused.json()["errors"][0]["field"] == f"lowered.{next(iter(too_high))}"
    for nothing in (0, -1):
        assert (await lowered(daily_budget_usd=nothing)).status_code == 422

    await lowered(daily_budget_usd=5, tokens_per_minute=7)
    await api.put(f"{TENANTS}/{acme}", json={"daily_budget_usd": 2})
    assert await in_force() == ("2", 100, 1000), "the operator's own is lower by now"
    await api.put(f"{TENANTS}/{acme}", json={"daily_budget_usd": None})
    assert await in_force() == ("5", 100, 1000)
    await api.put(f"{TENANTS}/{acme}", json={"may_lower": False, "daily_budget_usd": 50})
    assert await in_force() == ("50", 100, 1000)
    assert (await lowered()).status_code == 200


async def test_a_budget_that_a_tenant_sets_for_itself_counts_what_was_spent_before(
    api: httpx.AsyncClient, its_admin: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    await api.put(f"{TENANTS}/{acme}", json={"daily_budget_usd": 0, "may_lower": True})
    before = await config_entry(f"tenant.{acme}")

    await its_admin.put(f"{TENANTS}/{acme}", json={"lowered": {"daily_budget_usd": 5}})

    after = await config_entry(f"tenant.{acme}")
    assert before is not None
    assert after is not None
    assert after["budget_start"]["revision"] == after["revision"] == before["revision"] + 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", TENANTS, {"slug": "another", "daily_budget_usd": 0}),
        ("DELETE", f"{TENANTS}/{{acme}}", None),
        ("POST", "/api/v1/tokens", {"name": "n", "role": "admin"}),
        ("POST", "/api/v1/tokens", {"name": "n", "role": "viewer"}),
        ("POST", "/api/v1/tokens", {"name": "n", "role": "tenant_admin", "tenant": "another"}),
    ],
)
async def test_there_is_no_other_way_to_more_rights(
    its_admin: httpx.AsyncClient, acme: str, method: str, path: str, body: Any
) -> None:
    answer = await its_admin.request(method, path.format(acme=acme), json=body)

    assert answer.status_code in (403, 405)


@pytest.mark.parametrize("slug", ["-rf", "--", "-", "_", "___", "-_-"])
async def test_a_name_that_is_no_name_is_refused(api: httpx.AsyncClient, slug: str) -> None:
    answer = await api.post(TENANTS, json={"slug": slug})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "slug"


async def test_names_differ_in_more_than_case_and_signs(api: httpx.AsyncClient, acme: str) -> None:
    assert (await api.post(TENANTS, json={"slug": f"{acme}-a_b"})).status_code == 201

    for slug in (f"{acme}-A_B", f"{acme}_a_b", f"{acme}-a-b", f"{acme.upper()}-A-b"):
        answer = await api.post(TENANTS, json={"slug": slug})
        assert answer.status_code == 409
        assert f"{acme}-a_b" in answer.json()["detail"]
    assert (await api.post(TENANTS, json={"slug": f"{acme}-ab"})).status_code == 201


async def test_only_an_admin_sends_values_by_the_ten_thousand(
    api: httpx.AsyncClient, its_admin: httpx.AsyncClient, acme: str
) -> None:
    price = {"input_mtok": "1", "output_mtok": "2"}
    prices = {"prices": {f"mock/{number}": price for number in range(4000)}}

    refused = await its_admin.put(f"{TENANTS}/{acme}", json=prices)
    taken = await api.put(f"{TENANTS}/{acme}", json=prices)

    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "body: is not taken: it has more than 10000 values",
    )
    assert taken.status_code == 200
