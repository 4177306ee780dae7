"""Endpoints of a provider over two workers: dead ones, busy ones, and which is called how often."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from contracts.events import Completed, Event, Failed, Retrying, Started
from fleet.client import Client
from fleet.simulator import Script, Simulator
from tests.kit import Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.endpoints.circuit import COOL_DOWN_LONGEST_S, MAX_FAILURES, OPEN_FIRST_S

MODEL = "gpt-4o-mini"
HEALTHY = "gpt-4.1"


class Shop:
    """A tenant with two simulated OpenAIs, and two workers."""

    def __init__(self, client: Client, control: Plane, first: Simulator, second: Simulator) -> None:
        self.client, self.control, self.first, self.second = client, control, first, second

    async def configure(self, **config: Any) -> None:
        await self.control.put_provider("openai", config, key="sk-of-the-test")

    def two_endpoints(self, **of_the_second: Any) -> list[dict[str, Any]]:
        return [
            {"name": "one", "base_url": self.first.base_url("openai")},
            {"name": "two", "base_url": self.second.base_url("openai"), **of_the_second},
        ]

    async def ask(self, model: str = MODEL, **fields: Any) -> list[Event]:
        fields = {"deadline_s": 60, **fields}
        return [event async for event in self.client.stream(f"openai/{model}", "Hello", **fields)]

    def calls(self, vendor: Simulator, model: str = MODEL) -> int:
        return len(vendor.ledger.of_model(model))


@pytest.fixture
async def shop(nats_url: str, vault: Vault, tenant: str) -> AsyncGenerator[Shop]:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(worker(worker_settings(nats_url, vault, "openai"), "openai"))
        await stack.enter_async_context(worker(worker_settings(nats_url, vault, "mock"), "mock"))
        first = await stack.enter_async_context(Simulator())
        second = await stack.enter_async_context(Simulator())
        control = await stack.enter_async_context(plane(nats_url, vault, tenant))
        await control.put_tenant()
        await control.put_provider("mock")
        client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
        yield Shop(client, control, first, second)


async def test_a_dead_primary_costs_the_fleet_a_few_calls(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, Script(status=500))

    for _ in range(5):
        answers = await asyncio.gather(*(shop.ask(fallbacks=["mock/echo"]) for _ in range(20)))
        assert all(isinstance(events[-1], Completed) for events in answers)

    in_flight = 20
    assert shop.calls(shop.first) <= 2 * MAX_FAILURES + in_flight


async def test_a_dead_endpoint_leaves_its_share_to_the_others(shop: Shop) -> None:
    await shop.configure(endpoints=shop.two_endpoints())
    shop.first.script(MODEL, Script(status=500))

    for _ in range(4):
        answers = await asyncio.gather(*(shop.ask() for _ in range(20)))
        assert all(isinstance(events[-1], Completed) for events in answers)

    assert shop.calls(shop.first) <= 2 * MAX_FAILURES + 20
    assert shop.calls(shop.second) == 80


async def test_a_429_holds_back_every_request_until_the_time_it_named(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, Script(error="rate_limit_exceeded", headers={"retry-after": "2"}), Script(text="now"))
    first = asyncio.create_task(shop.ask())
    await until(lambda: shop.calls(shop.first) == 1)

    later = await asyncio.gather(*(shop.ask() for _ in range(10)))

    assert isinstance((await first)[-1], Completed)
    assert all(isinstance(events[-1], Completed) for events in later)
    asked = [entry.at for entry in shop.first.ledger.of_model(MODEL)]
    assert len(asked) == 12
    assert min(asked[1:]) - asked[0] >= 1.9


async def test_a_429_of_one_model_makes_no_other_one_at_its_endpoint_wait(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, Script(error="rate_limit_exceeded", headers={"retry-after": "200"}))

    falls_back = await shop.ask(fallbacks=[f"openai/{HEALTHY}"])
    healthy = await shop.ask(HEALTHY)
    again = await shop.ask(fallbacks=[f"openai/{HEALTHY}"])

    for events, models in ((falls_back, [MODEL, HEALTHY]), (healthy, [HEALTHY]), (again, [HEALTHY])):
        assert isinstance(events[-1], Completed)
        assert [event.model for event in events if isinstance(event, Started)] == models
        # Whoever waits says so before, and a minute is less than the vendor asked for.
        assert [event.delay_s for event in events if isinstance(event, Retrying)] == [0] * (events is not healthy)
    assert shop.calls(shop.first) == 1


@pytest.mark.parametrize(
    "dead",
    [
        Script(status=503),
        Script(status=404),
        Script(status=403),
        Script(cut_after_chunks=0),
        Script(error="server_error", error_after_chunks=0),
    ],
    ids=["503", "404", "403", "cut", "error in the stream"],
)
async def test_a_dead_model_leaves_service_while_its_fallback_at_the_same_endpoint_answers(
    shop: Shop, dead: Script
) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, dead)

    for _ in range(30):
        events = await shop.ask(fallbacks=[f"openai/{HEALTHY}"])
        assert isinstance(events[-1], Completed)
        assert events[-1].model == HEALTHY

    probes = 1 + (shop.first.ledger.of_model(MODEL)[-1].at - shop.first.ledger.of_model(MODEL)[0].at) // OPEN_FIRST_S
    assert shop.calls(shop.first) <= 2 * (MAX_FAILURES + 2) + probes
    assert shop.calls(shop.first, HEALTHY) == 30


async def test_a_model_that_is_silent_is_asked_once_before_its_fallback(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"), timeouts={"first_token_s": 3})
    shop.first.script(MODEL, Script(headers_s=300))

    events = await shop.ask(fallbacks=[f"openai/{HEALTHY}"])

    assert isinstance(events[-1], Completed)
    assert [event.model for event in events if isinstance(event, Started)][:2] == [MODEL, HEALTHY]
    assert [(event.error.code, event.delay_s) for event in events if isinstance(event, Retrying)][:1] == [
        ("provider_timeout", 0)
    ]
    assert shop.calls(shop.first) == 1


async def test_a_silent_endpoint_is_asked_once_before_another_one(shop: Shop) -> None:
    await shop.configure(endpoints=shop.two_endpoints(weight=0), timeouts={"first_token_s": 3})
    shop.first.script(MODEL, Script(headers_s=300))

    events = await shop.ask(fallbacks=["mock/echo"])

    assert isinstance(events[-1], Completed)
    assert [event.endpoint for event in events if isinstance(event, Started)][:2] == ["one", "two"]
    assert shop.calls(shop.first) == 1


async def test_a_key_that_is_refused_keeps_every_model_from_its_endpoint(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    for model in (MODEL, HEALTHY):
        shop.first.script(model, Script(status=401))
    # Enough for either worker to take the endpoint out of service for both.
    await asyncio.gather(*(shop.ask(fallbacks=["mock/echo"]) for _ in range(2 * MAX_FAILURES)))

    async def is_kept_away() -> bool:
        events = await shop.ask(HEALTHY, fallbacks=["mock/echo"])
        return [event.provider for event in events if isinstance(event, Started)] == ["mock"]

    async with asyncio.timeout(PATIENCE_S):
        while not await is_kept_away():
            pass
    assert shop.calls(shop.first, HEALTHY) < MAX_FAILURES, "they were probes"


async def test_without_an_alternative_a_request_waits_for_its_endpoint_to_come_back(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, *[Script(status=500)] * MAX_FAILURES, Script(text="back again"))
    spent = await asyncio.gather(*(shop.ask(on_interrupt="fail") for _ in range(4)))
    assert {type(events[-1]) for events in spent} <= {Completed, Failed}

    events = await shop.ask()

    assert isinstance(events[-1], Completed)
    assert shop.calls(shop.first) <= MAX_FAILURES + 5


async def test_what_cannot_wait_so_long_is_told_when_to_come_again(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, Script(error="rate_limit_exceeded", headers={"retry-after": "3600"}))

    events = await shop.ask()
    again = await shop.ask()

    for answer, longest_s in ((events, 3600), (again, COOL_DOWN_LONGEST_S)):
        assert isinstance(answer[-1], Failed)
        assert answer[-1].error.code == "rate_limited"
        assert longest_s - 100 < (answer[-1].error.retry_after_s or 0) <= longest_s
    assert not any(isinstance(event, Started) for event in again)
    assert shop.calls(shop.first) == 1


async def test_a_new_key_puts_a_refused_endpoint_back_into_service(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"))
    shop.first.script(MODEL, Script(status=401))
    await asyncio.gather(*(shop.ask() for _ in range(2 * MAX_FAILURES)))
    calls = shop.calls(shop.first)
    assert isinstance((await shop.ask(fallbacks=["mock/echo"]))[-1], Completed)
    assert shop.calls(shop.first) == calls, "nobody asks with a key that was refused so often"

    shop.first.script(MODEL, Script(text="welcome"))
    await shop.configure(base_url=shop.first.base_url("openai"))

    assert isinstance((await shop.ask())[-1], Completed)


async def test_no_more_calls_are_in_flight_than_the_endpoint_takes(shop: Shop) -> None:
    await shop.configure(base_url=shop.first.base_url("openai"), max_concurrency=3)
    shop.first.script(MODEL, Script(text="a b c d", between_s=0.02))

    answers = await asyncio.gather(*(shop.ask() for _ in range(40)))

    assert all(isinstance(events[-1], Completed) for events in answers)
    assert not any(isinstance(event, Retrying) for events in answers for event in events)
    assert _most_at_once(shop.first) == 3


async def test_a_busy_endpoint_leaves_calls_to_a_free_one(shop: Shop) -> None:
    await shop.configure(endpoints=shop.two_endpoints(weight=0), max_concurrency=2)
    shop.first.script(MODEL, Script(text="a b", between_s=0.5))
    shop.second.script(MODEL, Script(text="a b", between_s=0.5))

    answers = await asyncio.gather(*(shop.ask() for _ in range(4)))

    assert Counter(e.endpoint for events in answers for e in events if isinstance(e, Started)) == {"one": 2, "two": 2}


async def test_calls_at_the_same_time_spread_over_equal_endpoints(shop: Shop) -> None:
    await shop.configure(endpoints=shop.two_endpoints())
    for vendor in (shop.first, shop.second):
        vendor.script(MODEL, Script(text="a b", between_s=0.5))

    await asyncio.gather(*(shop.ask() for _ in range(16)))

    assert abs(shop.calls(shop.first) - shop.calls(shop.second)) <= 2  # each worker spreads its own


def _most_at_once(vendor: Simulator) -> int:
    moments = sorted(
        moment
        for entry in vendor.ledger.of_model(MODEL)
        for moment in ((entry.at, 1), (entry.ended_at or entry.at, -1))
    )
    at_once = most = 0
    for _, change in moments:
        at_once += change
        most = max(most, at_once)
    return most
