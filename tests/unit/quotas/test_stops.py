"""Whom a budget stopped of late."""

from datetime import UTC, datetime, timedelta

from contracts.providers import BudgetStop
from tests.driven_clock import DrivenClock
from workers.quotas.stops import MOST_TENANTS, Stops
from workers.usage.alerts.conditions import Condition, NoticeKind, of_budget_stops

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_the_last_stop_of_each_tenant_is_told_for_two_minutes() -> None:
    clock = DrivenClock()
    stops = Stops(clock)
    stops.note("acme", "waits")
    stops.note("acme", "refused")
    stops.note("other", "late")
    assert [(stop.tenant, stop.how) for stop in stops.recent()] == [("acme", "refused"), ("other", "late")]

    clock.pass_by(121)

    assert stops.recent() == ()


def test_many_tenants_leave_the_latest_ones() -> None:
    stops = Stops(DrivenClock())
    for number in range(3 * MOST_TENANTS):
        stops.note(f"t{number}", "waits")

    assert len(stops.recent()) == MOST_TENANTS
    assert stops.recent()[-1].tenant == f"t{3 * MOST_TENANTS - 1}"


def test_several_workers_stops_are_one_alert() -> None:
    older = BudgetStop(tenant="acme", how="waits", at=NOON)
    newer = BudgetStop(tenant="acme", how="broken_off", at=NOON + timedelta(seconds=1))

    [verdict] = of_budget_stops([newer, older], now=NOON)

    assert verdict.begins
    assert verdict.lasts
    assert verdict.condition == Condition("acme", NoticeKind.BUDGET_STOPS)
    assert verdict.condition.scope is None
    assert verdict.message == "acme: answers are broken off, because nothing is left of its daily budget"
