"""A budget that is set in the middle of a day counts what was spent before."""

from collections.abc import AsyncGenerator

import httpx
import pytest_asyncio
from pydantic import SecretStr

from contracts.wire import utc_now
from migrations.engine import make_engine
from tests.integration.admin.conftest import ReadConfig
from tests.usage import record
from workers.usage.ledger import Ledger


@pytest_asyncio.fixture
async def ledger(database_url: str) -> AsyncGenerator[Ledger]:
    engine = make_engine(SecretStr(database_url), application_name="test")
    yield Ledger(engine)
    await engine.dispose()


async def test_what_was_booked_before_counts_from_when_the_budget_is_set(
    api: httpx.AsyncClient, tenant: str, config_entry: ReadConfig, ledger: Ledger
) -> None:
    await api.post("/api/v1/tenants", json={"slug": tenant})
    now = utc_now()
    await ledger.book([record(tenant=tenant, started_at=now, finished_at=now, cost="1.25")])

    await api.put(f"/api/v1/tenants/{tenant}", json={"daily_budget_usd": "5"})
    began = await config_entry(f"tenant.{tenant}")
    await api.put(f"/api/v1/tenants/{tenant}", json={"daily_budget_usd": "8"})
    raised = await config_entry(f"tenant.{tenant}")

    assert began is not None
    assert raised is not None
    assert began["budget_start"] == {"day": now.date().isoformat(), "spent_usd": "1.25", "revision": 2}
    assert (raised["daily_budget_usd"], raised["budget_start"]) == ("8", began["budget_start"])


async def test_a_budget_that_is_lifted_and_set_again_begins_anew(
    api: httpx.AsyncClient, tenant: str, config_entry: ReadConfig
) -> None:
    await api.post("/api/v1/tenants", json={"slug": tenant, "daily_budget_usd": "5"})
    first = await config_entry(f"tenant.{tenant}")

    for budget in ("0", "5"):
        await api.put(f"/api/v1/tenants/{tenant}", json={"daily_budget_usd": budget})
    again = await config_entry(f"tenant.{tenant}")

    assert first is not None
    assert again is not None
    assert first["budget_start"] is None, "nothing was spent before there was a tenant"
    assert again["budget_start"]["revision"] == 3
