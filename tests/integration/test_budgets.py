"""A tenant's hard daily budget: never overrun, nothing kept free for ever, over workers that come and go."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from contracts import streams, subjects
from contracts.budget import UNITS_PER_USD, Hold
from contracts.events import Cancelled, Completed, Delta, Event, Failed
from contracts.providers import BudgetStart, Price, PublishedTenant
from contracts.requests import CompletionRequest
from fleet.client import Client
from runtime.broker import Broker, connect
from runtime.jetstream.publishing import NotStored, Publisher
from runtime.settings import BrokerSettings
from tests.kit import Bill, Plane, plane, worker, worker_process, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.clock import Clock
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interruption
from workers.quotas.budgets import Budgets
from workers.quotas.cost_bounds import BudgetedCall
from workers.quotas.holds import Holds

PRICES = {"mock/echo": Price(input_mtok=Decimal(0), output_mtok=Decimal(1_000_000))}
"""A USD for each token of the answer."""


class Shop:
    """A tenant whose answers cost a USD a word, and two workers. A word has four characters with its space: a token."""

    def __init__(self, client: Client, control: Plane, bill: Bill) -> None:
        self.client, self.control, self.bill = client, control, bill
        self.start: BudgetStart | None = None

    async def give(self, usd: int, *, start: BudgetStart | None = None) -> None:
        self.start = start
        await self.control.put_tenant(prices=PRICES, daily_budget_usd=Decimal(usd), budget_start=start)

    async def ask(self, words: int, **fields: Any) -> Event:
        script = {"text": " ".join(["say"] * words), "usage": {"output_tokens": words, "input_tokens": 0}}
        script |= fields.pop("script", {})
        asked: dict[str, Any] = {"deadline_s": 60, "provider_options": {"mock": script}, **fields}
        return [event async for event in self.client.stream("mock/echo", "Hello", **asked)][-1]

    async def spent(self) -> Decimal:
        """What the counter says, kept free or spent."""
        day = f"{datetime.now(UTC):%Y%m%d}"
        window = day if self.start is None else f"{day}-{self.start.revision}"
        try:
            last = await self.control.client.jetstream().get_last_msg(
                streams.BUDGETS, subjects.budget(self.control.tenant, window)
            )
        except Exception as exc:
            if type(exc).__name__ != "NotFoundError":
                raise
            return Decimal(0)
        return Decimal(json.loads(last.data or b"{}")["val"]) / UNITS_PER_USD

    def booked(self) -> Decimal:
        return sum((record.cost or Decimal(0) for record in self.bill.records), Decimal(0))

    async def holds(self) -> int:
        kept = await self.control.client.jetstream().stream_info(
            streams.HOLDS, subjects_filter=f"$KV.{subjects.HOLDS_BUCKET}.{self.control.tenant}.>"
        )
        found = 0
        for subject in kept.state.subjects or {}:
            message = await self.control.client.jetstream().get_last_msg(streams.HOLDS, subject)
            found += bool(message.data)
        return found

    async def until_settled(self, *, within_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(within_s):
            while await self.spent() != self.booked() or await self.holds():
                await asyncio.sleep(0.02)


async def _shop(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str) -> Shop:
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.make_streams()
    await control.put_tenant()
    await control.put_provider("mock")
    bill = await stack.enter_async_context(Bill.watch(control.client, tenant))
    client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
    return Shop(client, control, bill)


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def shop(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str) -> Shop:
    for _ in range(2):
        await stack.enter_async_context(worker(worker_settings(nats_url, vault), concurrency=256))
    return await _shop(stack, nats_url, vault, tenant)


async def test_two_hundred_at_once_do_not_overrun_it(shop: Shop) -> None:
    await shop.give(100)

    answers = await asyncio.gather(*(shop.ask(3, max_tokens=5) for _ in range(200)))

    completed = [answer for answer in answers if isinstance(answer, Completed)]
    refused = [answer.error for answer in answers if isinstance(answer, Failed)]
    assert {error.code for error in refused} == {"budget_exceeded"}
    assert all(0 < (error.retry_after_s or 0) <= 86_400 for error in refused)
    await shop.until_settled()
    assert shop.booked() == 3 * len(completed) <= 100
    assert shop.booked() > 100 - 5, "as long as a call fits, it is made"


async def test_a_request_waits_while_others_may_give_something_back(shop: Shop) -> None:
    await shop.give(12)
    long = asyncio.create_task(shop.ask(2, max_tokens=10, script={"first_token_s": 1.0}))
    await until_held(shop)

    short = await shop.ask(2, max_tokens=10)

    assert isinstance(short, Completed)
    assert isinstance(await long, Completed)
    await shop.until_settled()


async def test_an_answer_that_thinks_out_of_sight_is_bounded_to_what_is_left(shop: Shop) -> None:
    await shop.give(300)

    answer = await shop.ask(40, reasoning_effort="high")

    assert isinstance(answer, Completed)
    assert any("300 tokens" in warning for warning in answer.warnings)
    await shop.until_settled()
    assert shop.booked() == 40
    again = await shop.ask(40, reasoning_effort="high")
    assert isinstance(again, Completed), "what was not used is there again"
    too_little = await shop.ask(40, reasoning_effort="high")
    assert isinstance(too_little, Failed)
    assert too_little.error.code == "budget_exceeded"


async def test_what_costs_nothing_known_is_not_held_to_it(shop: Shop) -> None:
    await shop.control.put_tenant(daily_budget_usd=Decimal(1))

    assert isinstance(await shop.ask(40), Completed)
    assert await shop.spent() == 0


async def test_failed_and_cancelled_calls_leave_nothing_kept_free(shop: Shop) -> None:
    await shop.give(1000)
    cut = await shop.ask(10, max_tokens=50, on_interrupt="fail", script={"cut_after_chunks": 4})
    assert isinstance(cut, Failed)
    refused = await shop.ask(10, max_tokens=50, script={"fail": {"code": "invalid_request"}})
    assert isinstance(refused, Failed)
    stream = shop.client.stream(
        "mock/echo", "Hello", max_tokens=50, provider_options={"mock": {"text": "a b c d e f", "between_s": 5}}
    )
    async for event in stream:
        if event.seq == 2:
            await shop.client.cancel(event.request_id)
        if isinstance(event, Cancelled):
            break

    await until(lambda: len(shop.bill.records) == 3)
    await shop.until_settled()
    assert 0 < shop.booked() < 50


async def test_what_was_spent_before_the_budget_was_set_counts(shop: Shop) -> None:
    today = datetime.now(UTC).date()
    await shop.give(10, start=BudgetStart(day=today, spent_usd=Decimal(8), revision=3))

    assert isinstance(await shop.ask(2, max_tokens=2), Completed)
    refused = await shop.ask(1, max_tokens=1)

    assert isinstance(refused, Failed)
    assert refused.error.code == "budget_exceeded"


async def test_an_answer_grows_into_what_is_left(shop: Shop) -> None:
    await shop.give(300)

    answer = await shop.ask(270)

    assert isinstance(answer, Completed)
    assert answer.finish_reason == "stop"
    await shop.until_settled()
    assert shop.booked() == 270


async def test_an_answer_is_broken_off_when_nothing_is_left_to_grow_into(shop: Shop) -> None:
    await shop.give(300)

    broken = await shop.ask(900)

    assert isinstance(broken, Failed)
    assert broken.error.code == "budget_exceeded"
    assert 0 < (broken.error.retry_after_s or 0) <= 86_400
    assert broken.message is not None
    assert set((broken.message.content or "").split()) == {"say"}
    await shop.until_settled()
    (record,) = shop.bill.records
    assert (record.outcome, record.error_code) == ("failed", "budget_exceeded")
    assert 290 <= shop.booked() <= 301, "one read more than the budget holds"


async def test_many_answers_that_grow_at_once_do_not_overrun_it(shop: Shop) -> None:
    await shop.give(1000)

    answers = await asyncio.gather(*(shop.ask(100, script={"between_s": 0.001}) for _ in range(40)))

    assert {answer.error.code for answer in answers if isinstance(answer, Failed)} == {"budget_exceeded"}
    await shop.until_settled()
    assert 700 <= shop.booked() <= 1000 + 40, "one read of each that is under way"


async def test_fifty_requests_without_a_limit_run_at_once(shop: Shop) -> None:
    """The worst case of each is half of the budget; their answers cost a fiftieth of that."""
    prices = {"mock/echo": Price(input_mtok=Decimal(0), output_mtok=Decimal(500))}
    await shop.control.put_tenant(prices=prices, daily_budget_usd=Decimal(1))
    running, most = set[int](), 0

    async def ask(number: int) -> Event:
        nonlocal most
        script = {"text": "word " * 20, "between_s": 0.15}
        stream = shop.client.stream("mock/echo", "Hello", deadline_s=60, provider_options={"mock": script})
        async for event in stream:
            if isinstance(event, Delta):
                running.add(number)
                most = max(most, len(running))
            if isinstance(event, Completed | Failed):
                running.discard(number)
                return event
        raise AssertionError("no end")

    ends = await asyncio.gather(*map(ask, range(50)))

    assert [end.type for end in ends] == ["completed"] * 50
    assert most >= 45
    await shop.until_settled()
    assert len(shop.bill.records) == 50
    assert shop.booked() == sum((record.usage.output_tokens for record in shop.bill.records), 0) * Decimal("0.0005") < 1


async def test_calls_one_after_the_other_use_the_same_hold(shop: Shop) -> None:
    await shop.give(1000)
    for _ in range(5):
        assert isinstance(await shop.ask(3), Completed)

    await shop.until_settled()
    assert shop.booked() == 15


@pytest.mark.slow
async def test_killed_workers_do_not_make_growing_answers_overrun_it(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    shop = await _shop(stack, nats_url, vault, tenant)
    await shop.give(1000)
    doomed = await stack.enter_async_context(worker_process(nats_url, vault))
    asked = [asyncio.create_task(shop.ask(100, script={"between_s": 0.03})) for _ in range(12)]
    await until_spent(shop, 200)
    async with worker(worker_settings(nats_url, vault)):
        doomed.kill()

        await asyncio.gather(*asked)

        await shop.until_settled(within_s=90)
        assert shop.booked() <= 1000 + 12 * 10, "what was in flight: a step for each"
        assert await shop.spent() == shop.booked()


async def until_spent(shop: Shop, usd: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await shop.spent() < usd:
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_what_a_killed_worker_kept_free_is_released(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    shop = await _shop(stack, nats_url, vault, tenant)
    await shop.give(100)
    doomed = await stack.enter_async_context(worker_process(nats_url, vault))
    asked = asyncio.create_task(shop.ask(20, max_tokens=60, script={"between_s": 0.5}))
    await until_held(shop)
    async with worker(worker_settings(nats_url, vault)):
        doomed.kill()

        assert isinstance(await asked, Completed)

        await shop.until_settled(within_s=60)
        assert shop.booked() > 20, "the dead attempt is booked, too"
        assert await shop.spent() == shop.booked()


async def until_held(shop: Shop) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await shop.holds():
            await asyncio.sleep(0.01)


class LateHolds(Holds):
    """What is put comes late to the server."""

    def __init__(self, broker: Broker, publisher: Publisher) -> None:
        super().__init__(broker, publisher)
        self.may_be_put = asyncio.Event()
        self.puts: list[asyncio.Task[Any] | None] = []

    async def put(self, hold: Hold) -> None:
        self.puts.append(asyncio.current_task())
        await self.may_be_put.wait()
        await super().put(hold)


async def test_a_reservation_that_failed_leaves_no_hold_however_late_it_was(nats_url: str, shop: Shop) -> None:
    await shop.give(100)
    settings = BrokerSettings.model_validate({"nats_url": nats_url})
    async with connect(settings, name="tester", inbox_prefix="_ROLE_tester") as broker:
        publisher, rng, clock = Publisher(broker), random.Random(1), Clock()
        holds = LateHolds(broker, publisher)
        waiting = WaitingRoom(places=2, rng=rng)
        budgets = Budgets(broker, publisher, holds, waiting=waiting, worker="late", clock=clock, rng=rng)
        tenant = PublishedTenant(slug=shop.control.tenant, daily_budget_usd=Decimal(100), prices=PRICES)
        request = CompletionRequest.model_validate(
            {
                "id": "r1",
                "tenant": tenant.slug,
                "agent": "tester",
                "model": "mock/echo",
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 5,
            }
        )
        call = BudgetedCall(request, provider="mock", model="echo", at=clock.now(), deadline=clock.now())
        await shop.control.client.jetstream().delete_stream(streams.BUDGETS)

        with pytest.raises(NotStored):
            await budgets.reserve(tenant, call, interruption=Interruption())
        await shop.control.make_streams()
        await budgets.release_pending()
        holds.may_be_put.set()
        await asyncio.gather(*(put for put in holds.puts if put), return_exceptions=True)

        await shop.until_settled()
