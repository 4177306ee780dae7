"""Alerts from booked records, on a real database: raised once, resolved once, whoever evaluates and whoever dies."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.client import Client as Nats
from sqlalchemy import text

from contracts.errors import ErrorCode
from contracts.usage import Outcome, UsageRecord, UsageSource
from runtime.broker import Broker
from tests.integration.usage.conftest import Books
from tests.usage import NOON, record
from workers.clock import Clock
from workers.usage.alerts.circuits import Circuits
from workers.usage.alerts.conditions import Thresholds
from workers.usage.alerts.evaluator import Evaluator
from workers.usage.ledger import Ledger

THRESHOLDS = Thresholds(daily_cost_usd=Decimal(100), error_rate=0.25, slowdown=2.0)
REFUSED: dict[str, Any] = {"outcome": Outcome.FAILED, "error_code": ErrorCode.AUTHENTICATION_FAILED}
BETA: dict[str, Any] = {"tenant": "beta", "provider_id": "another"}
OVERLOADED: dict[str, Any] = {"outcome": Outcome.FAILED, "error_code": ErrorCode.OVERLOADED}


class DrivenClock(Clock):
    """Stands still until it is told the time."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


class Alerts:
    """A ledger, an evaluator, and what they have said."""

    def __init__(self, books: Books, clock: DrivenClock) -> None:
        self.books, self.clock = books, clock
        self.ledger = Ledger(books.engine)
        self.evaluator = self.another_evaluator()

    def another_evaluator(self) -> Evaluator:
        return Evaluator(self.books.engine, Circuits(Broker(Nats())), THRESHOLDS, clock=self.clock)

    async def book(self, *records: UsageRecord) -> None:
        await self.ledger.book(records)
        await self.evaluator.evaluate()

    async def pass_time(self, **by: float) -> None:
        self.clock.advance(**by)
        await self.evaluator.evaluate()

    async def told(self) -> list[tuple[str, str, str]]:
        """(kind, about, transition), in order."""
        rows = await self.books.rows("SELECT event FROM notices ORDER BY seq")
        events = [json.loads(row["event"]) for row in rows]
        return [(e["data"]["kind"], e["data"]["about"], e["type"].rpartition(".")[2]) for e in events]

    async def rows(self) -> list[dict[str, Any]]:
        return await self.books.rows("SELECT * FROM alerts ORDER BY created_at, kind, about")


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest_asyncio.fixture
async def alerts(books: Books, clock: DrivenClock) -> AsyncGenerator[Alerts]:
    yield Alerts(books, clock)


async def set_tenant(books: Books, **columns: Decimal | int) -> None:
    names = ", ".join(["slug", *columns])
    values = ", ".join(["'acme'", *map(str, columns.values())])
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    async with books.engine.begin() as connection:
        statement = f"INSERT INTO tenants ({names}) VALUES ({values}) ON CONFLICT (slug) DO UPDATE SET {changes}"
        await connection.execute(text(statement))


async def test_a_threshold_is_crossed_once_and_the_alert_ends_with_the_day(alerts: Alerts) -> None:
    await alerts.book(record(cost="99.99"))
    assert await alerts.told() == [("daily_cost_forecast", "", "raised")]
    await alerts.book(record(cost="0.01"))
    await alerts.book(record(cost="50"))
    raised = [("daily_cost_forecast", "", "raised"), ("daily_cost", "", "raised")]
    assert await alerts.told() == raised

    await alerts.pass_time(hours=12)

    assert sorted((await alerts.told())[2:]) == [
        ("daily_cost", "", "resolved"),
        ("daily_cost_forecast", "", "resolved"),
    ]
    (row,) = [row for row in await alerts.rows() if row["kind"] == "daily_cost"]
    assert (row["threshold_usd"], row["amount_usd"], row["day"]) == (100, 100, date(2026, 11, 20))
    assert row["resolved_at"] == NOON + timedelta(hours=12)
    assert "100 USD" in row["message"]


async def test_one_late_record_crosses_the_threshold_of_a_day_that_is_over(alerts: Alerts) -> None:
    await alerts.book(record(cost="99"))
    await alerts.pass_time(days=3)
    await alerts.book(record(cost="1"))
    await alerts.pass_time(seconds=10)
    await alerts.book(record(cost="1"))
    await alerts.pass_time(seconds=10)

    about_cost = [(kind, how) for kind, _, how in await alerts.told() if kind == "daily_cost"]
    assert about_cost == [("daily_cost", "raised"), ("daily_cost", "resolved")]


async def test_a_better_record_of_the_same_attempt_counts_with_its_own_cost(alerts: Alerts) -> None:
    await alerts.book(record("r", cost="10", source=UsageSource.ESTIMATED, outcome=Outcome.ABANDONED))
    await alerts.book(record("r", cost="120"))

    assert [kind for kind, _, _ in await alerts.told()] == ["daily_cost"]


async def test_the_tenants_own_settings_win_and_0_is_no_alert(alerts: Alerts) -> None:
    await set_tenant(alerts.books, daily_cost_alert_usd=0, daily_budget_usd=10)
    await alerts.book(record(cost="8"))
    await alerts.book(record(cost="2"))
    await alerts.book(record(cost="1000"), record(cost="100", **BETA))

    assert await alerts.told() == [
        ("budget_warning", "", "raised"),
        ("budget_exhausted", "", "raised"),
        ("daily_cost", "", "raised"),
    ]
    assert {row["tenant"] for row in await alerts.rows() if row["kind"] == "daily_cost"} == {"beta"}


async def test_a_higher_threshold_resolves_an_alert(alerts: Alerts) -> None:
    await alerts.book(record(cost="100"))
    await set_tenant(alerts.books, daily_cost_alert_usd=1000)
    await alerts.pass_time(seconds=10)

    assert await alerts.told() == [("daily_cost", "", "raised"), ("daily_cost", "", "resolved")]


async def test_failing_attempts_raise_one_alert_that_ends_when_they_work_again(
    alerts: Alerts, clock: DrivenClock
) -> None:
    def attempts(count: int, **fields: Any) -> Iterable[UsageRecord]:
        return (record(cost="0", finished_at=clock.now(), **fields) for _ in range(count))

    await alerts.book(*attempts(15), *attempts(4, **OVERLOADED))
    assert await alerts.told() == []
    await alerts.book(*attempts(1, **OVERLOADED))
    await alerts.book(*attempts(5, **OVERLOADED, model="another"), *attempts(25, **OVERLOADED, provider="google"))
    assert sorted(await alerts.told()) == [("error_rate", "google", "raised"), ("error_rate", "openai", "raised")]

    await alerts.pass_time(minutes=10)
    await alerts.book(*attempts(100))
    assert (await alerts.told())[2:] == [("error_rate", "openai", "resolved")]

    await alerts.pass_time(minutes=20)
    assert (await alerts.told())[3:] == [("error_rate", "google", "resolved")]


async def test_a_condition_that_returns_is_told_again_in_the_next_window_only(
    alerts: Alerts, clock: DrivenClock
) -> None:
    def refused() -> UsageRecord:
        return record(finished_at=clock.now(), **REFUSED)

    async def again() -> None:
        clock.advance(seconds=1)
        await alerts.book(refused())
        clock.advance(seconds=1)
        await alerts.book(record(finished_at=clock.now()))

    await again()
    once = [("key_refused", "openai", "raised"), ("key_refused", "openai", "resolved")]
    assert await alerts.told() == once
    await again()
    assert await alerts.told() == once

    clock.advance(minutes=10)
    await again()

    assert await alerts.told() == once * 2


async def test_a_refused_key_stays_one_alert_for_days(alerts: Alerts, clock: DrivenClock) -> None:
    for _ in range(3):
        await alerts.book(record(finished_at=clock.now(), **REFUSED))
        await alerts.pass_time(hours=20)
    assert await alerts.told() == [("key_refused", "openai", "raised")]

    await alerts.book(record(finished_at=clock.now(), started_at=clock.now()))

    assert await alerts.told() == [("key_refused", "openai", "raised"), ("key_refused", "openai", "resolved")]


async def test_slower_than_in_the_last_days_is_told_by_model(alerts: Alerts, clock: DrivenClock) -> None:
    def attempts(count: int, first_token_s: float, duration_s: float, model: str = "m") -> Iterable[UsageRecord]:
        now = clock.now()
        fields: dict[str, Any] = {
            "time_to_first_token_s": first_token_s,
            "duration_s": duration_s,
            "cost": "0",
            "model": model,
        }
        return (record(started_at=now, finished_at=now, **fields) for _ in range(count))

    await alerts.book(*attempts(150, 0.4, 2.0), *attempts(150, 0.4, 2.0, "n"))
    await alerts.book(*attempts(30, 5.0, 2.0))
    assert await alerts.told() == []  # there are no last days yet

    await alerts.pass_time(days=1)
    await alerts.pass_time(hours=1)
    await alerts.book(*attempts(29, 3.0, 2.2), *attempts(50, 0.5, 2.2, "n"))
    assert await alerts.told() == []
    await alerts.book(*attempts(1, 3.0, 9.0))
    assert await alerts.told() == []  # of 180 attempts yesterday 30 took 5 s
    clock.advance(days=6, hours=1)
    await alerts.book(*attempts(200, 0.4, 2.0))
    clock.advance(days=2)
    await alerts.pass_time(seconds=10)
    await alerts.book(*attempts(40, 3.0, 9.0))

    assert sorted(await alerts.told()) == [
        ("slow_duration", "openai/m", "raised"),
        ("slow_first_token", "openai/m", "raised"),
    ]
    row = (await alerts.rows())[-1]
    assert row["measured"] == pytest.approx(3.0, rel=0.1)

    clock.advance(minutes=30)
    await alerts.pass_time(seconds=10)
    assert len(await alerts.told()) == 4


async def test_rows_stay_few(alerts: Alerts, clock: DrivenClock) -> None:
    for _ in range(30):
        await alerts.book(*(record(finished_at=clock.now(), cost="0") for _ in range(50)))
        await alerts.pass_time(minutes=10)
    await alerts.pass_time(days=1)

    async def count(table: str) -> int:
        return (await alerts.books.rows(f"SELECT count(*) FROM {table}"))[0]["count"]

    assert (await count("alert_pulses"), await count("alert_windows"), await count("latency_days")) == (0, 0, 1)
    (day,) = await alerts.books.rows("SELECT * FROM latency_days")
    assert sum(day["duration"]) == 1500
    await alerts.pass_time(days=8)
    assert await count("latency_days") == 0


async def test_evaluators_that_meet_tell_once(alerts: Alerts) -> None:
    others = [alerts.another_evaluator() for _ in range(4)]
    await asyncio.gather(
        *(alerts.ledger.book([record(cost="30")]) for _ in range(6)),
        *(Ledger(alerts.books.engine).book([record(**REFUSED)]) for _ in range(3)),
        *(evaluator.evaluate() for evaluator in others * 5),
    )
    while any([await evaluator.evaluate() for evaluator in others]):
        pass

    assert sorted(await alerts.told()) == [("daily_cost", "", "raised"), ("key_refused", "openai", "raised")]
    assert len(await alerts.rows()) == 2


async def test_a_round_that_dies_leaves_everything_to_the_next(alerts: Alerts) -> None:
    await alerts.ledger.book([record(cost="100"), record(**REFUSED)])
    async with alerts.books.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE notices RENAME TO away"))
    with pytest.raises(Exception, match="notices"):
        await alerts.evaluator.evaluate()
    assert await alerts.rows() == []
    async with alerts.books.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO notices"))

    await alerts.evaluator.evaluate()

    assert sorted(await alerts.told()) == [("daily_cost", "", "raised"), ("key_refused", "openai", "raised")]


async def test_a_pulse_of_another_version_holds_up_no_other(alerts: Alerts) -> None:
    async with alerts.books.engine.begin() as connection:
        await connection.execute(text("""INSERT INTO alert_pulses (counted) VALUES ('{"later": 1}'), ('[]')"""))

    await alerts.book(record(cost="100"))

    assert await alerts.told() == [("daily_cost", "", "raised")]


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_and_any_repetition_raises_the_same_alerts_once(alerts: Alerts, seed: int) -> None:
    chance = random.Random(seed)
    said = [
        record("r1", cost="60"),
        record("r2", cost="45"),
        record("r3", cost="70", source=UsageSource.ESTIMATED, outcome=Outcome.ABANDONED),
        record("r3", cost="30"),
        record("r4", cost="99", **BETA),
        record("r5", cost="1", **BETA),
        record("r6", cost="0", **BETA, finished_at=NOON + timedelta(minutes=1), **REFUSED),
    ]
    stream = [*said, *chance.choices(said, k=14)]
    chance.shuffle(stream)

    while stream:
        size = chance.randint(1, 6)
        batch, stream = stream[:size], stream[size:]
        await asyncio.gather(alerts.ledger.book(batch), Ledger(alerts.books.engine).book(batch[::-1]))
        if chance.random() < 0.5:
            await alerts.evaluator.evaluate()
    await alerts.evaluator.evaluate()

    raised = [(row["tenant"], row["kind"]) for row in await alerts.rows() if row["kind"] != "daily_cost_forecast"]
    assert sorted(raised) == [("acme", "daily_cost"), ("beta", "daily_cost"), ("beta", "key_refused")]
    assert len(await alerts.told()) == len(await alerts.rows())
