"""Keeping a budget's money free, giving it back, and waiting for it: on counters and holds in memory."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import nats.errors
import pytest
from nats.aio.msg import Msg

from contracts.budget import UNITS_PER_USD, Hold
from contracts.errors import BudgetExceeded, DeadlineExceeded
from contracts.providers import Price, PublishedTenant
from contracts.requests import CompletionRequest
from contracts.usage import Outcome, Usage, UsageRecord, UsageSource
from runtime.jetstream.publishing import NotStored
from tests.driven_clock import DrivenClock
from workers.intake.delivery import NotNow
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interruption
from workers.quotas.budgets import Account, Budgets, Reservation
from workers.quotas.cost_bounds import Ask, BudgetedCall

A_USD_A_TOKEN = {"mock/echo": Price(input_mtok=Decimal(0), output_mtok=Decimal(1_000_000))}
TEN_USD = PublishedTenant(slug="acme", daily_budget_usd=Decimal(10), prices=A_USD_A_TOKEN)


def _tenant(usd: int) -> PublishedTenant:
    return TEN_USD.model_copy(update={"daily_budget_usd": Decimal(usd)})


class Server:
    """Counters that count each message id once, and holds: what NATS keeps, seen by all workers."""

    def __init__(self) -> None:
        self.total = 0
        self.counted: dict[str, int] = {}
        self.held: dict[tuple[str, int], Hold] = {}
        self.is_silent = False
        self._inboxes = 0
        self._listening: dict[str, Callable[[Msg], Awaitable[None]]] = {}

    @property
    def usd(self) -> Decimal:
        return Decimal(self.total) / UNITS_PER_USD

    def count(self, amount: int, msg_id: str) -> bool:
        """Whether it is new."""
        if self.is_silent:
            raise nats.errors.TimeoutError
        if msg_id in self.counted:
            return False
        self.counted[msg_id] = amount
        self.total += amount
        return True

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    async def subscribe(self, subject: str, *, cb: Callable[[Msg], Awaitable[None]]) -> None:
        self._listening[subject.removesuffix(".*")] = cb

    async def publish(self, subject: str, payload: bytes, *, reply: str, headers: dict[str, str]) -> None:
        """As the connection's, for the counters."""
        if self.is_silent:
            raise nats.errors.TimeoutError
        amount = int(headers["Nats-Incr"])
        is_new = not amount or self.count(amount, headers["Nats-Msg-Id"])
        answer = {"val": str(self.total)} if is_new else {"duplicate": True}
        told = Msg(cast(Any, self), subject=reply, data=json.dumps(answer).encode())
        await self._listening[reply.rpartition(".")[0]](told)

    async def durable(self, subject: str, payload: bytes, *, msg_id: str, headers: dict[str, str]) -> None:
        """As the publisher's, for steps that need no total."""
        if self.is_silent:
            raise NotStored(subject)
        self.count(int(headers["Nats-Incr"]), msg_id)

    async def put(self, hold: Hold) -> None:
        if self.is_silent:
            raise NotStored(hold.name)
        self.held[hold.worker, hold.slot] = hold

    async def empty(self, hold: Hold) -> None:
        if self.is_silent:
            raise NotStored(hold.name)
        self.held.pop((hold.worker, hold.slot), None)

    async def any_beside(self, own: Hold) -> bool:
        return any(hold.name != own.name for hold in self.held.values())


class Worker:
    def __init__(self, server: Server, name: str, *, places: int = 2) -> None:
        self.clock = DrivenClock()
        rng = random.Random(7)
        connection = cast(Any, type("Broker", (), {"client": server}))
        nats = cast(Any, server)
        self.budgets = Budgets(
            connection,
            nats,
            nats,
            waiting=WaitingRoom(places=places, rng=rng),
            worker=name,
            clock=self.clock,
            rng=rng,
        )

    async def reserve(self, usd: int | None, *, left_s: float = 60, budget: int = 10) -> Reservation:
        """For an answer that costs as much; None: for one of no said length."""
        request = CompletionRequest.model_validate(
            {
                "id": "r",
                "tenant": "acme",
                "agent": "a",
                "model": "mock/echo",
                "messages": [{"role": "user", "content": "x"}],
                "max_tokens": usd,
            }
        )
        now = self.clock.now()
        deadline = now + timedelta(seconds=left_s)
        call = BudgetedCall(request, provider="mock", model="echo", at=now, deadline=deadline)
        reserved = await self.budgets.reserve(_tenant(budget), call, interruption=Interruption())
        assert reserved is not None
        return reserved

    async def settle(
        self, reserved: Reservation, usd: int, *, record: str = "r-1", budget: int = 10, tokens: int = 0
    ) -> None:
        booked = UsageRecord.model_construct(
            id=record,
            tenant="acme",
            provider="mock",
            model="echo",
            outcome=Outcome.COMPLETED,
            usage=Usage(output_tokens=tokens, source=UsageSource.VENDOR),
            cost=Decimal(usd),
            started_at=self.clock.now(),
        )
        await self.budgets.settle(_tenant(budget), booked, reserved)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def worker(server: Server) -> Worker:
    return Worker(server, "one")


async def turns() -> None:
    """Lets everything that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_what_a_call_can_cost_is_kept_free_until_it_is_booked(server: Server, worker: Worker) -> None:
    reserved = await worker.reserve(4)
    assert (server.usd, len(server.held)) == (4, 1)

    await worker.settle(reserved, 3)

    assert (server.usd, server.held) == (3, {})


async def test_a_step_that_is_repeated_counts_once(server: Server, worker: Worker) -> None:
    reserved = await worker.reserve(4)
    for _ in range(3):
        await worker.settle(reserved, 3)
        await worker.budgets.release(reserved.hold)

    assert server.usd == 3


async def test_what_will_not_fit_is_refused_when_nothing_is_under_way(server: Server, worker: Worker) -> None:
    with pytest.raises(BudgetExceeded) as refused:
        await worker.reserve(11)

    assert 0 < (refused.value.retry_after_s or 0) <= 86_400
    assert (server.usd, server.held) == (0, {})


async def test_what_was_refused_once_asks_the_counter_no_more(server: Server, worker: Worker) -> None:
    with pytest.raises(BudgetExceeded):
        await worker.reserve(11)
    steps = len(server.counted)

    with pytest.raises(BudgetExceeded):
        await worker.reserve(12)

    assert len(server.counted) == steps
    await worker.reserve(10)


async def test_a_call_waits_for_one_that_may_give_something_back(server: Server, worker: Worker) -> None:
    first = await worker.reserve(8)
    waiting = asyncio.create_task(worker.reserve(5))
    await turns()
    assert not waiting.done()

    await worker.settle(first, 2)

    await waiting
    assert server.usd == 2 + 5


async def test_calls_that_wait_are_served_in_turn(server: Server, worker: Worker) -> None:
    first = await worker.reserve(10)
    large = asyncio.create_task(worker.reserve(9))
    await turns()
    small = asyncio.create_task(worker.reserve(1))
    await turns()

    await worker.settle(first, 1)
    await turns()

    assert large.done()
    assert not small.done(), "nothing is left for it now"
    await worker.settle(await large, 0, record="r-2")
    await small


async def test_who_waits_until_the_deadline_is_told_so(worker: Worker) -> None:
    await worker.reserve(8)

    with pytest.raises(DeadlineExceeded):
        await worker.reserve(5, left_s=0)


async def test_a_tenant_has_few_places_to_wait_in(server: Server) -> None:
    worker = Worker(server, "one", places=1)
    await worker.reserve(8)
    waiting = asyncio.create_task(worker.reserve(5))
    await turns()

    with pytest.raises(NotNow):
        await worker.reserve(5)
    waiting.cancel()


async def test_an_answer_that_cannot_grow_gets_what_is_left(server: Server) -> None:
    worker = Worker(server, "one")
    tenant = TEN_USD.model_copy(update={"daily_budget_usd": Decimal(300)})
    request = CompletionRequest.model_validate(
        {
            "id": "r",
            "tenant": "acme",
            "agent": "a",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "x"}],
            "reasoning_effort": "high",
        }
    )
    now = worker.clock.now()
    call = BudgetedCall(request, provider="mock", model="echo", at=now, deadline=now)

    reserved = await worker.budgets.reserve(tenant, call, interruption=Interruption())

    assert reserved is not None
    assert (reserved.max_tokens, server.usd) == (300, 300)
    (hold,) = server.held.values()
    assert hold.units - hold.returned == 300 * UNITS_PER_USD, "who settles it after our death gives back no more"


async def test_a_worker_that_died_leaves_nothing_kept_free(server: Server, worker: Worker) -> None:
    await worker.reserve(4)
    (hold,) = server.held.values()

    for _ in range(2):
        await Worker(server, "other").budgets.settle_orphan(hold)

    assert (server.usd, server.held) == (0, {})


async def test_a_hold_whose_count_never_came_gives_back_nothing(server: Server, worker: Worker) -> None:
    reserved = await worker.reserve(4)
    server.total, server.counted = 0, {}

    await Worker(server, "other").budgets.settle_orphan(reserved.hold)

    assert server.usd == 0


async def test_what_could_not_be_given_back_is_given_back_later(server: Server, worker: Worker) -> None:
    reserved = await worker.reserve(4)
    server.is_silent = True
    with pytest.raises(NotStored):
        await worker.budgets.release(reserved.hold)
    worker.budgets.release_later(reserved.hold)
    with pytest.raises(NotStored):
        await worker.budgets.release_pending()

    server.is_silent = False
    await worker.budgets.release_pending()

    assert (server.usd, server.held) == (0, {})


async def test_a_reservation_that_got_no_answer_is_given_back_later(server: Server, worker: Worker) -> None:
    server.is_silent = True
    with pytest.raises(NotStored):
        await worker.reserve(4)
    server.is_silent = False

    await worker.budgets.release_pending()

    assert (server.usd, server.held) == (0, {})


async def test_a_small_hold_stays_for_the_next_call(server: Server, worker: Worker) -> None:
    first = await worker.reserve(1, budget=100)
    await worker.settle(first, 1, budget=100)
    steps = len(server.counted)

    second = await worker.reserve(1, budget=100)

    assert second.hold is first.hold
    assert len(server.counted) == steps, "nothing is written before the call"
    await worker.settle(second, 1, record="r-2", budget=100)
    tending = asyncio.create_task(worker.budgets.tend())
    await turns()
    assert (server.usd, server.held) == (2, {})
    tending.cancel()


async def test_a_worker_that_stops_releases_what_waits_for_a_call(server: Server, worker: Worker) -> None:
    await worker.settle(await worker.reserve(1, budget=100), 1, budget=100)
    tending = asyncio.create_task(worker.budgets.tend())
    await asyncio.sleep(0)
    assert server.held

    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)

    assert (server.usd, server.held) == (1, {})


async def test_an_idle_hold_is_released_when_another_call_needs_its_money(server: Server, worker: Worker) -> None:
    await worker.settle(await worker.reserve(1, budget=100), 1, budget=100)

    reserved = await worker.reserve(99, budget=100)

    assert server.usd == 100
    assert list(server.held.values()) == [reserved.hold]


async def test_a_growing_call_gives_everything_back(server: Server, worker: Worker) -> None:
    reserved = await worker.reserve(None, budget=512)
    assert reserved.growth is not None
    assert server.usd == Decimal("4.5"), "a 128th and some slack: nothing is known of its answers"
    until_covered = reserved.growth.reach(20, 0)
    assert until_covered is not None
    await until_covered
    assert len(server.held) > 1
    assert server.usd > 20

    await worker.settle(reserved, 20, budget=512, tokens=20)
    await turns()

    assert server.usd - 20 == sum((hold.units for hold in server.held.values()), 0) / UNITS_PER_USD
    assert len(server.held) <= 1, "the first one stays for the next call"


async def test_a_call_whose_end_nobody_settles_leaves_no_step(server: Server, worker: Worker) -> None:
    reserved = await worker.reserve(None, budget=512)
    assert reserved.growth is not None
    until_covered = reserved.growth.reach(20, 0)
    assert until_covered is not None
    await until_covered

    worker.budgets.release_later(reserved.hold)
    await worker.budgets.release_pending()

    assert (server.usd, server.held) == (0, {})


async def test_what_answers_usually_are_is_kept_free_at_first(server: Server, worker: Worker) -> None:
    for number in range(8):
        reserved = await worker.reserve(None, budget=1024)
        await worker.settle(reserved, 40, record=f"r-{number}", budget=1024, tokens=40)
    before = server.usd

    await worker.reserve(None, budget=1024)

    assert server.usd - before + 8 >= 50, "forty tokens and a quarter more, less what waited"


def test_a_call_that_will_most_likely_fit_does_not_stand_in_line() -> None:
    account = Account("20261123", most=10, left=7)

    assert account.try_at_once(Ask(4, 4))
    assert not account.try_at_once(Ask(4, 4)), "three are left"
    assert account.try_at_once(Ask(3, 3))


async def test_nobody_passes_those_who_stand_in_line() -> None:
    account = Account("20261123", most=10, left=7)
    await account.line.acquire()

    assert not account.try_at_once(Ask(1, 1))


def test_what_is_as_large_as_something_that_was_refused_is_refused() -> None:
    account = Account("20261123", most=10)
    assert not account.refuses(Ask(99, 5))

    account.refuse(Ask(99, 5))
    account.refuse(Ask(99, 7))

    assert account.refuses(Ask(5, 5))
    assert not account.refuses(Ask(99, 4))
