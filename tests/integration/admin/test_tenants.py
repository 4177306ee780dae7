"""The tenants endpoints, and what workers are told."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.integration.admin.conftest import ReadConfig

TENANTS = "/api/v1/tenants"
UNSET = dict.fromkeys(("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day"))
PARTS: dict[str, Any] = {
    "limits": {"requests_per_minute": 5, "tokens_per_day": 0},
    "daily_budget_usd": "12.50",
    "daily_cost_alert_usd": 3,
    "aliases": {"fast": ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]},
    "fallbacks": ["google/gemini-2.5-flash"],
    "alert_emails": ["ops@example.com"],
    "max_keep_s": 3600,
    "prices": {"openai/gpt-4o-mini": {"input_mtok": "0.10", "output_mtok": 0.4}},
}
SHOWN: dict[str, Any] = PARTS | {
    "limits": UNSET | {"requests_per_minute": 5, "tokens_per_day": 0},
    "daily_budget_usd": "12.5",
    "daily_cost_alert_usd": "3",
    "prices": {"openai/gpt-4o-mini": {"input_mtok": "0.1", "output_mtok": "0.4"}},
}


async def test_adds_a_tenant_and_tells_the_workers(
    api: httpx.AsyncClient, tenant: str, config_entry: ReadConfig
) -> None:
    added = await api.post(TENANTS, json={"slug": tenant, **PARTS})

    assert added.status_code == 201
    assert added.json() == {"slug": tenant, **SHOWN}
    assert (await api.get(f"{TENANTS}/{tenant}")).json() == added.json()
    entry = await config_entry(f"tenant.{tenant}")
    assert entry is not None
    assert entry["revision"] == 1
    assert entry["limits"] == SHOWN["limits"]
    assert (entry["daily_budget_usd"], entry["aliases"]) == ("12.5", PARTS["aliases"])


async def test_a_bare_tenant_has_every_default(api: httpx.AsyncClient, tenant: str) -> None:
    added = await api.post(TENANTS, json={"slug": tenant})

    assert added.json() == {
        "slug": tenant,
        "limits": UNSET,
        "daily_budget_usd": None,
        "daily_cost_alert_usd": None,
        "aliases": {},
        "fallbacks": [],
        "alert_emails": [],
        "prices": {},
    }


async def test_changes_only_what_is_given(api: httpx.AsyncClient, tenant: str, config_entry: ReadConfig) -> None:
    await api.post(TENANTS, json={"slug": tenant, **PARTS})

    changed = await api.put(
        f"{TENANTS}/{tenant}", json={"limits": {"requests_per_minute": None, "requests_per_day": 7}}
    )
    expected = SHOWN | {"limits": SHOWN["limits"] | {"requests_per_minute": None, "requests_per_day": 7}}
    assert changed.json() == {"slug": tenant, **expected}

    cleared = await api.put(f"{TENANTS}/{tenant}", json={"daily_budget_usd": None, "aliases": None, "limits": None})
    assert cleared.json() == {
        "slug": tenant,
        **expected,
        "daily_budget_usd": None,
        "aliases": {},
        "limits": UNSET,
    }

    whole = await api.put(f"{TENANTS}/{tenant}", json=cleared.json())
    assert whole.json() == cleared.json()
    entry = await config_entry(f"tenant.{tenant}")
    assert entry is not None
    assert entry["revision"] == 3, "a change to the same is no change"


async def test_how_long_ends_are_kept_is_told_to_workers_and_audited(
    api: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    """0 is a value of its own: nothing is kept. Only null is the default, which is not shown."""
    for value, shown in ((604_800, {"max_keep_s": 604_800}), (0, {"max_keep_s": 0}), (None, {})):
        changed = await api.put(f"{TENANTS}/{acme}", json={"max_keep_s": value})

        assert changed.status_code == 200
        assert changed.json().items() >= shown.items()
        assert ("max_keep_s" in changed.json()) == bool(shown)
        assert (await api.get(f"{TENANTS}/{acme}")).json() == changed.json()
        entry = await config_entry(f"tenant.{acme}")
        assert entry is not None
        assert entry.get("max_keep_s") == value
        newest = (await api.get("/api/v1/audit", params={"tenant": acme, "limit": 1})).json()["items"][0]
        assert (newest["action"], newest["after"].get("max_keep_s")) == ("tenant.change", value)

    await api.put(f"{TENANTS}/{acme}", json={"max_keep_s": 0})
    untouched = await api.put(f"{TENANTS}/{acme}", json={"fallbacks": ["openai/gpt-4o-mini"]})
    assert untouched.json()["max_keep_s"] == 0, "left out: unchanged"


async def test_many_changes_at_once_end_with_the_newest_published(
    api: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    changes = [api.put(f"{TENANTS}/{acme}", json={"limits": {"requests_per_day": day}}) for day in range(1, 21)]

    assert {answer.status_code for answer in await asyncio.gather(*changes)} == {200}

    entry = await config_entry(f"tenant.{acme}")
    assert entry is not None
    assert entry["revision"] == 21
    assert entry["limits"] == (await api.get(f"{TENANTS}/{acme}")).json()["limits"]


@pytest.mark.parametrize(
    "part",
    [
        {"limits": {"requests_per_minute": -1}},
        {"limits": {"requests_per_day": 2**63}},
        {"limits": {"requests_per_hour": 1}},
        {"daily_budget_usd": "-1"},
        {"daily_budget_usd": "NaN"},
        {"daily_budget_usd": "1e30"},
        {"aliases": {"a b": ["openai"]}},
        {"aliases": {"a": "openai"}},
        {"aliases": {"a\0": []}},
        {"fallbacks": ["x"] * 17},
        {"max_keep_s": -1},
        {"max_keep_s": 604_801},
        {"max_keep_s": 0.5},
        {"max_keep_s": "a day"},
        {"alert_emails": ["nobody"]},
        {"alert_emails": ["Ops <ops@example.com>"]},
        {"alert_emails": ["ops@example.com\r\nBcc: eve@example.com"]},
        {"prices": {"openai/x": {"input_mtok": 1}}},
        {"prices": {"openai/x": {"input_mtok": -1, "output_mtok": 1}}},
        {"slug": "other"},
        {"budget": 1},
    ],
)
async def test_refuses_what_is_wrong(api: httpx.AsyncClient, acme: str, part: dict[str, Any]) -> None:
    answer = await api.put(f"{TENANTS}/{acme}", json=part)

    assert answer.status_code == 422
    assert answer.json()["errors"]


async def test_a_slug_is_taken_once_and_is_a_subject_token(api: httpx.AsyncClient, acme: str) -> None:
    assert (await api.post(TENANTS, json={"slug": acme})).status_code == 409
    for slug in ("a.b", "*", ">", "", "x" * 65, "a\n", "ä"):
        assert (await api.post(TENANTS, json={"slug": slug})).status_code == 422
    assert (await api.get(f"{TENANTS}/nobody")).status_code == 404
    assert (await api.put(f"{TENANTS}/nobody", json={})).status_code == 404


async def test_lists_in_pages(api: httpx.AsyncClient, acme: str) -> None:
    slugs = sorted([acme, *(f"{acme}-{number}" for number in range(4))])
    for slug in slugs[1:]:
        await api.post(TENANTS, json={"slug": slug})

    first = (await api.get(TENANTS, params={"limit": 3})).json()
    second = (await api.get(TENANTS, params={"limit": 3, "cursor": first["next"]})).json()

    assert [item["slug"] for item in [*first["items"], *second["items"]]] == slugs
    assert second["next"] is None
    assert (await api.get(TENANTS, params={"limit": 0})).status_code == 422


async def test_a_price_may_have_tiers(api: httpx.AsyncClient, tenant: str, config_entry: ReadConfig) -> None:
    rates, shown = {"input_mtok": 1, "output_mtok": "2.50"}, {"input_mtok": "1", "output_mtok": "2.5"}

    def price(rates: dict[str, Any]) -> dict[str, Any]:
        long = [rates | {"above_input_tokens": 200_000}]
        return rates | {"long_context": long, "service_tiers": {"flex": rates, "fast": rates | {"long_context": long}}}

    added = await api.post(TENANTS, json={"slug": tenant, "prices": {"openai/x": price(rates)}})

    assert (added.status_code, added.json()["prices"]) == (201, {"openai/x": price(shown)})
    entry = await config_entry(f"tenant.{tenant}")
    assert entry is not None
    assert entry["prices"].keys() == {"openai/x"}
    assert entry["prices"]["openai/x"]["service_tiers"]["fast"]["long_context"][0]["output_mtok"] == "2.5"


async def test_as_many_prices_as_are_taken_can_be_sent_with_every_rate(api: httpx.AsyncClient, tenant: str) -> None:
    rates = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
    prices = {f"openai/model-{n}": {f"{rate}_mtok": "1.25" for rate in rates} for n in range(5000)}
    await api.post(TENANTS, json={"slug": tenant})

    taken = await api.put(f"{TENANTS}/{tenant}", json={"prices": prices})
    refused = await api.put(
        f"{TENANTS}/{tenant}", json={"prices": {f"m{n}": {"input_mtok": 1, "output_mtok": 1} for n in range(5001)}}
    )

    assert (taken.status_code, taken.json()["prices"] == prices) == (200, True)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "prices")
