"""Alerts from booked records, on a real database: raised once, resolved once, whoever evaluates and whoever dies."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.client import Client as Nats
from sqlalchemy import text

from contracts import subjects
from contracts.errors import ErrorCode
from contracts.health import OpenCircuit, key_of_circuit
from contracts.providers import BudgetStop, WorkerPresence
from contracts.usage import Outcome, UsageRecord, UsageSource
from contracts.wire import utc_now
from fleet.local.process import Command, Process
from runtime.broker import Broker
from tests.driven_clock import DrivenClock
from tests.integration.usage.conftest import Books, publish, until_booked
from tests.patience import PATIENCE_S
from tests.usage import USED_AT, record
from workers.usage.alerts.budget_stops import BudgetStops
from workers.usage.alerts.circuits import Circuits
from workers.usage.alerts.conditions import Thresholds
from workers.usage.alerts.evaluator import Evaluator
from workers.usage.ledger import Ledger

THRESHOLDS = Thresholds(daily_cost_usd=Decimal(100), error_rate=0.25, slowdown=2.0)
REFUSED: dict[str, Any] = {"outcome": Outcome.FAILED, "error_code": ErrorCode.AUTHENTICATION_FAILED}
BETA: dict[str, Any] = {"tenant": "beta", "provider_id": "another"}
OVERLOADED: dict[str, Any] = {"outcome": Outcome.FAILED, "error_code": ErrorCode.OVERLOADED}


class Alerts:
    """A ledger, an evaluator, and what they have said."""

    def __init__(self, books: Books, clock: DrivenClock) -> None:
        self.books, self.clock = books, clock
        self.ledger = self.another_ledger()
        self.evaluator = self.another_evaluator()

    def another_ledger(self) -> Ledger:
        return Ledger(self.books.engine, now=self.clock.now)

    def another_evaluator(self) -> Evaluator:
        return Evaluator(self.books.engine, Circuits(Broker(Nats())), THRESHOLDS, clock=self.clock)

    async def book(self, *records: UsageRecord) -> None:
        await self.ledger.book(records)
        await self.evaluator.evaluate()

    async def pass_time(self, **by: float) -> None:
        self.clock.pass_by(**by)
        await self.evaluator.evaluate()

    async def told(self) -> list[tuple[str, str, str]]:
        """(kind, about, transition), in order."""
        rows = await self.books.rows("SELECT event FROM notices ORDER BY seq")
        events = [json.loads(row["event"]) for row in rows]
        return [(e["data"]["kind"], e["data"]["about"], e["type"].rpartition(".")[2]) for e in events]

    async def rows(self) -> list[dict[str, Any]]:
        return await self.books.rows("SELECT * FROM alerts ORDER BY created_at, kind, about")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock(USED_AT)


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
    assert row["resolved_at"] == USED_AT + timedelta(hours=12)
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
        clock.pass_by(seconds=1)
        await alerts.book(refused())
        clock.pass_by(seconds=1)
        await alerts.book(record(finished_at=clock.now()))

    await again()
    once = [("key_refused", "openai", "raised"), ("key_refused", "openai", "resolved")]
    assert await alerts.told() == once
    await again()
    assert await alerts.told() == once

    clock.pass_by(minutes=10)
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
    clock.pass_by(days=6, hours=1)
    await alerts.book(*attempts(200, 0.4, 2.0))
    clock.pass_by(days=2)
    await alerts.pass_time(seconds=10)
    await alerts.book(*attempts(40, 3.0, 9.0))

    assert sorted(await alerts.told()) == [
        ("slow_duration", "openai/m", "raised"),
        ("slow_first_token", "openai/m", "raised"),
    ]
    row = (await alerts.rows())[-1]
    assert row["measured"] == pytest.approx(3.0, rel=0.1)

    clock.pass_by(minutes=30)
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
        *(alerts.ledger.book([record(cost="100")]) for _ in range(6)),
        *(alerts.another_ledger().book([record(**REFUSED)]) for _ in range(3)),
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
        record("r6", cost="0", **BETA, finished_at=USED_AT + timedelta(minutes=1), **REFUSED),
    ]
    stream = [*said, *chance.choices(said, k=14)]
    chance.shuffle(stream)

    while stream:
        size = chance.randint(1, 6)
        batch, stream = stream[:size], stream[size:]
        await asyncio.gather(alerts.ledger.book(batch), alerts.another_ledger().book(batch[::-1]))
        if chance.random() < 0.5:
            await alerts.evaluator.evaluate()
    await alerts.evaluator.evaluate()

    raised = [(row["tenant"], row["kind"]) for row in await alerts.rows() if row["kind"] != "daily_cost_forecast"]
    assert sorted(raised) == [("acme", "daily_cost"), ("beta", "daily_cost"), ("beta", "key_refused")]
    assert len(await alerts.told()) == len(await alerts.rows())


def circuit(endpoint: str, reason: ErrorCode) -> OpenCircuit:
    at = utc_now()
    return OpenCircuit(
        tenant="acme",
        provider="openai",
        endpoint=endpoint,
        reason=reason,
        opened_at=at,
        until=at + timedelta(seconds=5),
        generation=1,
        revision=1,
        worker="w",
    )


async def test_an_open_circuit_is_an_alert_until_it_is_closed(alerts: Alerts, connection: Broker) -> None:
    bucket = await connection.client.jetstream().key_value(subjects.HEALTH_BUCKET)

    async def put(which: OpenCircuit) -> None:
        await bucket.put(key_of_circuit(which.tenant, which.provider, which.endpoint), which.to_json())

    await put(circuit("eu", ErrorCode.PROVIDER_UNAVAILABLE))
    await put(circuit("us", ErrorCode.RATE_LIMITED))
    circuits = Circuits(connection)
    alerts.evaluator = Evaluator(alerts.books.engine, circuits, THRESHOLDS, clock=alerts.clock)
    await alerts.evaluator.evaluate()
    assert await alerts.told() == []
    watching = asyncio.create_task(circuits.watch())

    async def known(count: int) -> None:
        async def are_known() -> bool:
            return len(circuits.known() or ()) == count

        await until(are_known)

    await known(2)
    await alerts.evaluator.evaluate()
    await alerts.evaluator.evaluate()
    assert await alerts.told() == [("provider_unavailable", "openai/eu", "raised")]
    assert await alerts.another_evaluator().evaluate() is False  # it knows nothing of circuits, and leaves them alone
    assert len(await alerts.told()) == 1

    await bucket.delete(key_of_circuit("acme", "openai", "eu"))
    await known(1)
    await alerts.evaluator.evaluate()
    assert (await alerts.told())[1:] == [("provider_unavailable", "openai/eu", "resolved")]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_what_a_budget_stops_is_an_alert_while_a_worker_tells_it(alerts: Alerts, connection: Broker) -> None:
    bucket = await connection.client.jetstream().key_value(subjects.HEALTH_BUCKET)

    async def tell(*stops: BudgetStop) -> None:
        presence = WorkerPresence(
            name="w1",
            providers=("mock",),
            host="h",
            pid=1,
            version="1",
            started_at="",
            concurrency=1,
            in_flight=0,
            parked=0,
            budget_stops=stops,
        )
        await bucket.put("worker.w1", presence.to_json())

    stops = BudgetStops(connection)
    alerts.evaluator = Evaluator(alerts.books.engine, Circuits(connection), THRESHOLDS, clock=alerts.clock, stops=stops)
    await tell(BudgetStop(tenant="acme", how="waits", at=utc_now()))
    watching = asyncio.create_task(stops.watch())

    async def known(count: int) -> None:
        async def are_known() -> bool:
            return len(stops.known() or ()) == count

        await until(are_known)

    await known(1)
    await alerts.evaluator.evaluate()
    await alerts.evaluator.evaluate()
    assert await alerts.told() == [("budget_stops", "", "raised")]
    assert await alerts.another_evaluator().evaluate() is False  # it hears of no stops, and leaves them alone
    assert len(await alerts.told()) == 1

    await tell()
    await known(0)
    await alerts.evaluator.evaluate()
    assert (await alerts.told())[1:] == [("budget_stops", "", "resolved")]
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_circuits_that_become_known_during_a_round_count_in_the_next_one(alerts: Alerts) -> None:
    out = circuit("eu", ErrorCode.PROVIDER_UNAVAILABLE)

    class Told(Circuits):
        def __init__(self, *answers: list[OpenCircuit] | None) -> None:
            super().__init__(Broker(Nats()))
            self.answers = list(answers)

        def known(self) -> list[OpenCircuit] | None:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    before = Evaluator(alerts.books.engine, Told([out]), THRESHOLDS, clock=alerts.clock)
    await before.evaluate()
    after = Evaluator(alerts.books.engine, Told(None, [out]), THRESHOLDS, clock=alerts.clock)
    await after.evaluate()
    await after.evaluate()
    assert await alerts.told() == [("provider_unavailable", "openai/eu", "raised")]


async def test_consumers_that_are_killed_again_and_again_tell_everything_once(
    connection: Broker, books: Books, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    env = {"NATS_URL": nats_url, "DATABASE_URL": database_url, "LLM_DAILY_COST_ALERT_THRESHOLD": "10"}
    program = (sys.executable, "-c", "import sys; from workers.usage.app import main; sys.exit(main())")

    def start(name: str) -> Process:
        return Process(Command(name, program, tmp_path / f"{name}.log", env=env, cwd=Path(__file__).parents[3]))

    now = utc_now()
    tenants = [f"t{number}" for number in range(8)]
    processes = [start("one"), start("two")]
    try:
        for turn in range(4):
            for tenant in tenants:
                fields: dict[str, Any] = {
                    "tenant": tenant,
                    "provider_id": tenant,
                    "started_at": now,
                    "finished_at": now,
                }
                costs = ("2.6", "0.1", "0") if tenant != "t0" else ("0.1", "0.1", "0")
                await publish(connection, *(record(cost=cost, **fields) for cost in costs))
                if turn == 2:
                    await publish(connection, record(cost="0", **fields, **REFUSED))
            await until_booked(connection)  # and not evaluated yet, or just now
            victim = turn % 2
            await processes[victim].kill()
            processes[victim] = start(processes[victim].command.name)

        async def all_are_told() -> bool:
            kinds = [row["kind"] for row in await books.rows("SELECT kind FROM alerts")]
            return (kinds.count("daily_cost"), kinds.count("key_refused")) == (7, 8)

        await until_booked(connection)
        await until(all_are_told)
        (left,) = await books.rows("SELECT count(*) FROM alert_pulses")
        assert left["count"] == 0
    finally:
        for process in processes:
            await process.kill()

    (windows,) = await books.rows("SELECT sum(requests)::int AS requests FROM alert_windows")
    assert windows["requests"] == await books.count() == 4 * 8 * 3 + 8
    twice = await books.rows("SELECT tenant, kind FROM alerts GROUP BY tenant, kind HAVING count(*) > 1")
    assert twice == []
    told = [json.loads(row["event"]) for row in await books.rows("SELECT event FROM notices")]
    raised = [event["subject"] for event in told if event["type"].endswith("raised")]
    assert sorted(raised) == sorted(str(row["id"]) for row in await books.rows("SELECT id FROM alerts"))
