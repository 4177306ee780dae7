"""What workers get of a row, and what is left alone because this version cannot read it."""

import uuid
from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from admin_api.publishing import worker_config
from contracts.providers import BudgetStart

TENANT = {
    "slug": "acme",
    "requests_per_minute": 5,
    "requests_per_day": None,
    "tokens_per_minute": None,
    "tokens_per_day": 0,
    "daily_budget_usd": Decimal(10),
    "budget_day": None,
    "budget_spent_usd": None,
    "budget_revision": None,
    "may_lower": False,
    "lowered": {},
    "daily_cost_alert_usd": None,
    "aliases": {"fast": ["openai/gpt-4o-mini"]},
    "fallbacks": [],
    "prices": {},
    "max_keep_s": None,
    "revision": 3,
}
PROVIDER = {
    "id": uuid.UUID("7d0c8a4e-6f51-4a53-8a0e-4b6d1c2e9f10"),
    "tenant": "acme",
    "provider_type": "openai",
    "is_active": True,
    "is_default": False,
    "key_version": 2,
    "more_keys": {"second": {"fingerprint": "0" * 8, "version": 7}},
    "revision": 4,
    "config": {"models": ["gpt-4o"]},
}


def row(of: dict[str, Any], **changes: Any) -> Any:
    return SimpleNamespace(**{**of, **changes})


def test_a_tenants_row_becomes_what_workers_read() -> None:
    found = worker_config.tenant(row(TENANT))

    assert found is not None
    assert (found.limits.requests_per_minute, found.limits.tokens_per_day) == (5, 0)
    assert (found.budget_start, found.revision) == (None, 3)
    assert worker_config.key(found) == "tenant.acme"


@pytest.mark.parametrize("most", [None, 0, 604_800])
def test_workers_are_told_how_long_ends_are_kept(most: int | None) -> None:
    found = worker_config.tenant(row(TENANT, max_keep_s=most))

    assert found is not None
    assert found.max_keep_s == most


def test_a_budget_that_began_within_a_day_says_when() -> None:
    start = {"budget_day": date(2026, 11, 23), "budget_spent_usd": Decimal("2.5"), "budget_revision": 2}

    found = worker_config.tenant(row(TENANT, **start))

    assert found is not None
    assert found.budget_start == BudgetStart(day=date(2026, 11, 23), spent_usd=Decimal("2.5"), revision=2)


def test_a_providers_row_becomes_what_workers_read() -> None:
    found = worker_config.provider(row(PROVIDER))

    assert found is not None
    assert (found.key_version, found.more_key_versions) == (2, {"second": 7})
    assert worker_config.key(found) == "provider.acme.openai"


@pytest.mark.parametrize(
    ("read", "changed"),
    [
        (worker_config.tenant, row(TENANT, aliases={"fast": 7})),
        (worker_config.tenant, row(TENANT, slug="a.b")),
        (worker_config.tenant, row(TENANT, max_keep_s=604_801)),
        (worker_config.tenant, row(TENANT, budget_day=date(2026, 11, 23), budget_revision="x")),
        (worker_config.provider, row(PROVIDER, config={"from": "the future"})),
        (worker_config.provider, row(PROVIDER, provider_type="a-new-vendor")),
    ],
)
def test_a_row_of_another_version_is_logged_and_left_alone(
    read: Any, changed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(changed) is None

    assert [record.message for record in caplog.records] == ["config_row_unreadable"]
