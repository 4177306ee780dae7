"""When an alert begins and when it ends: tables of what was measured."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.health import OpenCircuit
from contracts.notices import NoticeKind
from tests.driven_clock import NOON
from workers.usage.alerts import forecast
from workers.usage.alerts.alert_counts import TenantDay
from workers.usage.alerts.conditions import (
    Condition,
    Health,
    Latency,
    ModelKey,
    ProviderKey,
    Spending,
    Thresholds,
    Verdict,
    of_circuits,
    of_health,
    of_latency,
    of_spending,
)
from workers.usage.alerts.sketch import bucket_of, dense

DAY = NOON.date()
MIDNIGHT = NOON.replace(hour=0)
THRESHOLDS = Thresholds(daily_cost_usd=Decimal(100), error_rate=0.25, slowdown=2.0)


def usd(amount: str | None) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def spending(
    spent: str, *, alert: str | None = None, budget: str | None = None, now: datetime = NOON
) -> dict[NoticeKind, Verdict]:
    of = Spending("acme", DAY, Decimal(spent), usd(alert), usd(budget))
    return {verdict.condition.kind: verdict for verdict in of_spending(of, THRESHOLDS, now=now)}


@pytest.mark.parametrize(
    ("spent", "alert", "begins"),
    [
        ("99.9999999999", None, False),
        ("100", None, True),
        ("250", None, True),
        ("9.99", "10", False),
        ("10", "10", True),
        ("100", "200", False),
        ("100000", "0", False),
    ],
)
def test_a_day_costs_as_much_as_the_tenants_threshold_or_the_default(
    spent: str, alert: str | None, begins: bool
) -> None:
    assert spending(spent, alert=alert)[NoticeKind.DAILY_COST].begins is begins


@pytest.mark.parametrize(
    ("spent", "budget", "warning", "exhausted"),
    [
        ("79.99", "100", False, False),
        ("80", "100", True, False),
        ("100", "100", True, True),
        ("80", None, False, False),
        ("80", "0", False, False),
    ],
)
def test_a_budget_warns_at_80_percent_and_is_exhausted_at_100(
    spent: str, budget: str | None, warning: bool, exhausted: bool
) -> None:
    verdicts = spending(spent, alert="0", budget=budget)

    assert verdicts[NoticeKind.BUDGET_WARNING].begins is warning
    assert verdicts[NoticeKind.BUDGET_EXHAUSTED].begins is exhausted


def test_what_is_about_a_day_ends_with_it_or_when_it_is_no_longer_so() -> None:
    last_moment, next_day = MIDNIGHT + timedelta(days=1, microseconds=-1), MIDNIGHT + timedelta(days=1)

    assert spending("100", now=last_moment)[NoticeKind.DAILY_COST].lasts
    assert not spending("100", now=next_day)[NoticeKind.DAILY_COST].lasts
    assert not spending("100", alert="200")[NoticeKind.DAILY_COST].lasts


def test_a_day_that_is_over_still_begins_an_alert_when_a_late_record_comes() -> None:
    verdict = spending("100", now=NOON + timedelta(days=3))[NoticeKind.DAILY_COST]

    assert (verdict.begins, verdict.lasts) == (True, False)
    assert verdict.condition == Condition("acme", NoticeKind.DAILY_COST, day=DAY)
    assert verdict.window_start == MIDNIGHT


@pytest.mark.parametrize(
    ("spent", "hours", "foretold"),
    [
        ("10", 12, "20"),
        ("10", 6, "40"),
        ("10", 2, "120"),
        ("10", 1.99, None),
        ("0", 12, "0"),
        ("99", 24, "99"),
    ],
)
def test_a_forecast_goes_on_at_the_days_average(spent: str, hours: float, foretold: str | None) -> None:
    now = MIDNIGHT + timedelta(hours=hours, microseconds=-1 if hours == 24 else 0)

    found = forecast.at_end_of_day(Decimal(spent), now=now)

    assert (None if found is None else found.quantize(Decimal("0.0001"))) == usd(foretold)


@pytest.mark.parametrize(
    ("spent", "hours", "begins", "lasts"),
    [
        ("60", 12, True, True),
        ("50", 12, False, False),
        ("60", 1, False, False),
        ("60", 20, False, False),
        ("100", 12, False, True),
    ],
)
def test_what_will_exceed_the_threshold_is_told_before_it_does(
    spent: str, hours: int, begins: bool, lasts: bool
) -> None:
    verdict = spending(spent, now=MIDNIGHT + timedelta(hours=hours))[NoticeKind.DAILY_COST_FORECAST]

    assert (verdict.begins, verdict.lasts) == (begins, lasts)


def test_a_tenant_without_a_threshold_gets_no_forecast() -> None:
    assert not spending("60", alert="0")[NoticeKind.DAILY_COST_FORECAST].begins


def health(**changes: Any) -> dict[NoticeKind, Verdict]:
    of = Health("acme", "openai", **changes)
    return {verdict.condition.kind: verdict for verdict in of_health(of, THRESHOLDS, now=NOON)}


@pytest.mark.parametrize(
    ("attempts", "errors", "begins", "lasts"),
    [
        (20, 5, True, True),
        (20, 4, False, True),
        (19, 19, False, True),
        (100, 13, False, True),
        (100, 12, False, False),
        (0, 0, False, False),
    ],
)
def test_an_error_rate_begins_at_its_threshold_and_ends_at_half(
    attempts: int, errors: int, begins: bool, lasts: bool
) -> None:
    verdict = health(attempts=attempts, errors=errors)[NoticeKind.ERROR_RATE]

    assert (verdict.begins, verdict.lasts) == (begins, lasts)


@pytest.mark.parametrize(
    ("refused", "succeeded", "begins", "lasts"),
    [
        (NOON, None, True, True),
        (NOON, NOON - timedelta(seconds=1), True, True),
        (NOON, NOON + timedelta(seconds=1), False, False),
        (None, NOON, False, False),
        (None, None, False, True),
    ],
)
def test_a_key_is_refused_until_the_next_success(
    refused: datetime | None, succeeded: datetime | None, begins: bool, lasts: bool
) -> None:
    verdict = health(refused_at=refused, succeeded_at=succeeded)[NoticeKind.KEY_REFUSED]

    assert (verdict.begins, verdict.lasts) == (begins, lasts)


def latency(
    seconds: float, *, samples: int = 100, usual_s: float | None = 1.0, slowdown: float = 2.0
) -> Verdict | None:
    recent = dense({bucket_of(seconds): samples})
    of = Latency("acme", "openai", "gpt-4o", NoticeKind.SLOW_FIRST_TOKEN, recent, usual_s)
    thresholds = Thresholds(Decimal(0), 0, slowdown)
    return next(iter(of_latency(of, thresholds, now=NOON)), None)


@pytest.mark.parametrize(
    ("seconds", "fields", "begins", "lasts"),
    [
        (3.0, {}, True, True),
        (3.0, {"samples": 30}, True, True),
        (3.0, {"samples": 29}, False, True),
        (1.8, {}, False, True),
        (1.2, {}, False, False),
        (0.4, {"usual_s": 0.1}, False, True),
        (0.8, {"usual_s": 0.1}, True, True),
    ],
)
def test_slow_is_relative_to_the_last_days_and_hurts(
    seconds: float, fields: dict[str, Any], begins: bool, lasts: bool
) -> None:
    verdict = latency(seconds, **fields)

    assert verdict is not None
    assert (verdict.begins, verdict.lasts) == (begins, lasts)


@pytest.mark.parametrize("fields", [{"usual_s": None}, {"samples": 0}, {"slowdown": 0.0}])
def test_without_anything_to_compare_there_is_no_verdict_on_latency(fields: dict[str, Any]) -> None:
    assert latency(60.0, **fields) is None


def circuit(endpoint: str, model: str | None = None, reason: ErrorCode = ErrorCode.OVERLOADED) -> OpenCircuit:
    return OpenCircuit(
        tenant="acme",
        provider="openai",
        endpoint=endpoint,
        model=model,
        reason=reason,
        opened_at=NOON,
        until=NOON,
        generation=1,
        revision=1,
        worker="w",
    )


def test_an_open_circuit_is_an_outage() -> None:
    [verdict] = of_circuits([circuit("eu")], now=NOON + timedelta(minutes=13))

    assert verdict.begins
    assert verdict.lasts
    assert verdict.condition == Condition("acme", NoticeKind.PROVIDER_UNAVAILABLE, "openai/eu")
    assert verdict.window_start == NOON + timedelta(minutes=10)
    assert verdict.message == "the endpoint eu of openai is out of service for acme: overloaded"


@pytest.mark.parametrize("reason", [ErrorCode.RATE_LIMITED, ErrorCode.MODEL_NOT_FOUND])
def test_a_cool_down_is_no_outage_and_neither_is_a_model_that_was_never_there(reason: ErrorCode) -> None:
    assert list(of_circuits([circuit("eu", "m", reason)], now=NOON)) == []


def test_models_without_number_are_one_outage_of_their_endpoint() -> None:
    verdicts = list(of_circuits([circuit("eu", f"m{n}") for n in range(1000)] + [circuit("us", "m")], now=NOON))

    assert [verdict.condition.about for verdict in verdicts] == ["openai/eu", "openai/us"]
    assert verdicts[0].message.startswith("the model m0 and 999 more at the endpoint eu of openai is out of service")
    assert verdicts[1].message.startswith("the model m at the endpoint us of openai is out of service")


def test_an_endpoint_that_is_out_of_service_is_named_before_its_models() -> None:
    [verdict] = of_circuits([circuit("eu", "m"), circuit("eu")], now=NOON)

    assert verdict.message.startswith("the endpoint eu of openai")


@pytest.mark.parametrize(
    ("condition", "scope"),
    [
        (Condition("acme", NoticeKind.DAILY_COST, day=DAY), TenantDay("acme", DAY)),
        (Condition("acme", NoticeKind.ERROR_RATE, "openai"), ProviderKey("acme", "openai")),
        (Condition("acme", NoticeKind.SLOW_DURATION, "azure/a/b"), ModelKey("acme", "azure", "a/b")),
        (Condition("acme", NoticeKind.PROVIDER_UNAVAILABLE, "openai/eu"), None),
    ],
)
def test_a_condition_knows_where_it_is_measured(condition: Condition, scope: object) -> None:
    assert condition.scope == scope
