"""Limits as the whole fleet keeps them: exact, once for each request, and never in the way of a broken counter."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from contracts import streams, subjects
from contracts.control import HANDOVER, HANDOVER_PROOF, MSG_ID, Handover
from contracts.errors import FleetError, TenantRateLimited
from contracts.events import Completed, Event, Failed, Terminal, parse
from contracts.providers import Limits, PublishedTenant
from contracts.subjects import Priority
from contracts.usage import Usage
from fleet.client import Client
from fleet.local.servers import NatsServer
from runtime.broker import Broker, connect
from runtime.settings import BrokerSettings
from tests.driven_clock import DrivenClock
from tests.kit import NO_LIMITS, Bill, Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.clock import Clock
from workers.quotas import rate_limiter
from workers.quotas.rate_limiter import RateLimiter


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


async def broker(stack: AsyncExitStack, url: str) -> Broker:
    settings = BrokerSettings.model_validate({"nats_url": url})
    found = await stack.enter_async_context(connect(settings, name="tester", inbox_prefix="_ROLE_tester"))
    await streams.ensure(found.request, settings.sizes())
    return found


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock(datetime(2026, 11, 23, 23, 58, 30, tzinfo=UTC))


@pytest.fixture
async def connections(stack: AsyncExitStack, nats_url: str) -> list[Broker]:
    return [await broker(stack, nats_url) for _ in range(2)]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NATS does not answer within a second counts as allowed, which a busy machine must not bring about."""
    monkeypatch.setattr(rate_limiter, "COUNTERS_ANSWER_WITHIN_S", PATIENCE_S)


@pytest.fixture
def workers(connections: list[Broker], clock: DrivenClock, patient: None) -> list[RateLimiter]:
    """The admissions of two workers, each with a connection of its own."""
    return [RateLimiter(connection, defaults=NO_LIMITS, clock=clock) for connection in connections]


def tenant_with(**limits: int) -> PublishedTenant:
    return PublishedTenant(slug="acme", limits=Limits(**limits))


async def starts(admission: RateLimiter, tenant: PublishedTenant, key: object) -> bool:
    try:
        await admission.admit(tenant, key=str(key))
    except TenantRateLimited:
        return False
    return True


async def flood(workers: list[RateLimiter], tenant: PublishedTenant, keys: range) -> int:
    """How many of these requests start, all asking at once."""
    return sum(await asyncio.gather(*(starts(workers[key % len(workers)], tenant, key) for key in keys)))


@pytest.mark.parametrize("limit", ["requests_per_minute", "requests_per_day"])
async def test_of_many_at_once_exactly_as_many_start_as_the_limit_says(workers: list[RateLimiter], limit: str) -> None:
    assert await flood(workers, tenant_with(**{limit: 37}), range(200)) == 37


async def test_a_new_minute_and_a_new_day_begin_with_nothing_used(
    workers: list[RateLimiter], clock: DrivenClock
) -> None:
    tenant = tenant_with(requests_per_minute=5, requests_per_day=28)

    assert await flood(workers, tenant, range(20)) == 5
    await all_counted(workers)
    clock.pass_by(minutes=1)
    assert await flood(workers, tenant, range(20, 40)) == 5
    clock.pass_by(seconds=30)
    assert await flood(workers, tenant, range(40, 60)) == 5


async def all_counted(workers: list[RateLimiter]) -> None:
    """Returns when the counters hold what these workers said without waiting for an answer.

    JetStream stores the messages of one connection in order, and `admit` waits until its own is stored.
    """
    for limiter in workers:
        await limiter.admit(PublishedTenant(slug="last", limits=Limits(requests_per_minute=10**6)), key=uuid4().hex)


async def test_what_the_minute_refuses_does_not_use_up_the_day(workers: list[RateLimiter]) -> None:
    assert await flood(workers, tenant_with(requests_per_minute=2, requests_per_day=60), range(50)) == 2
    await all_counted(workers)

    assert await flood(workers, tenant_with(requests_per_day=60), range(50, 150)) == 58


async def test_a_flood_beyond_the_minutes_limit_asks_nothing_more_of_nats(
    connections: list[Broker], workers: list[RateLimiter], clock: DrivenClock
) -> None:
    tenant = tenant_with(requests_per_minute=1, requests_per_day=9)
    assert await flood(workers[:1], tenant, range(3)) == 1
    sent = connections[0].client.stats["out_msgs"]

    assert await flood(workers[:1], tenant, range(3, 50)) == 0
    assert connections[0].client.stats["out_msgs"] == sent
    assert await starts(workers[0], tenant_with(requests_per_minute=9, requests_per_day=9), "raised")
    clock.pass_by(minutes=1)
    assert await starts(workers[0], tenant, "later")


async def test_a_request_counts_once_however_often_it_is_taken_up(
    workers: list[RateLimiter], clock: DrivenClock
) -> None:
    tenant = tenant_with(requests_per_minute=2, requests_per_day=2)

    assert [await starts(workers[n % 2], tenant, "again") for n in range(5)] == [True] * 5
    assert await starts(workers[0], tenant, "second")
    assert not await starts(workers[1], tenant, "third")
    await workers[1].admit(tenant, key="second", delivered_before=True)
    clock.pass_by(minutes=1)
    assert await starts(workers[1], tenant, "again")


async def test_tokens_are_booked_after_use_and_refuse_what_comes_later(
    workers: list[RateLimiter], clock: DrivenClock
) -> None:
    tenant = tenant_with(tokens_per_minute=100, requests_per_day=3)
    first, second = workers
    assert await starts(first, tenant, 1)
    await first.count_tokens(tenant, Usage(input_tokens=60, output_tokens=39), key="1-1")
    assert await starts(first, tenant, 2)
    for _ in range(3):
        await first.count_tokens(tenant, Usage(output_tokens=1), key="2-1")
    await all_counted(workers)

    assert not await starts(second, tenant, 3)
    clock.pass_by(minutes=1)
    assert await starts(second, tenant, 4)
    assert not await starts(second, tenant, 5)


async def test_a_tenant_without_limits_asks_nothing_of_nats(stack: AsyncExitStack, nats_url: str) -> None:
    connection = await broker(stack, nats_url)
    admission = RateLimiter(connection, defaults=NO_LIMITS, clock=Clock())
    sent = connection.client.stats["out_msgs"]

    assert await starts(admission, tenant_with(), 1)
    await admission.count_tokens(tenant_with(), Usage(output_tokens=5), key="1-1")

    assert connection.client.stats["out_msgs"] == sent


def unchecked() -> float:
    return sum(
        REGISTRY.get_sample_value("fleet_unchecked_limits_total", {"limit": limit}) or 0
        for limit in ("requests_per_minute", "requests_per_day", "tokens_per_day")
    )


async def test_without_the_counters_requests_start_and_it_is_counted_and_said_once(
    stack: AsyncExitStack, nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await broker(stack, nats_url)
    await connection.client.jetstream().delete_stream(streams.LIMITS)
    admission = RateLimiter(connection, defaults=NO_LIMITS, clock=Clock())
    tenant = tenant_with(requests_per_minute=1, tokens_per_day=1)
    before = unchecked()

    assert await flood([admission], tenant, range(10)) == 10

    assert unchecked() - before == 20
    assert [record.message for record in caplog.records].count("limits_unchecked") == 1


async def test_a_server_that_does_not_answer_holds_a_request_up_for_a_second_at_most(
    nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        admission = RateLimiter(await broker(stack, nats.url), defaults=NO_LIMITS, clock=Clock())
        await nats.kill()

        async with asyncio.timeout(8):  # less than ten times a second
            assert await flood([admission], tenant_with(requests_per_minute=1, requests_per_day=1), range(10)) == 10

        await nats.start()


# Whole workers


@pytest.fixture
async def control(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str, patient: None) -> Plane:
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    settings = worker_settings(nats_url, vault, llm_rate_limit_per_minute=0, llm_rate_limit_per_day=3)
    for _ in range(2):
        await stack.enter_async_context(worker(settings, concurrency=32))
    await control.put_provider("mock", is_default=True)
    return control


@pytest.fixture
async def bill(stack: AsyncExitStack, control: Plane) -> Bill:
    return await stack.enter_async_context(Bill.watch(control.client, control.tenant))


@pytest.fixture
async def client(stack: AsyncExitStack, control: Plane, nats_url: str) -> Client:
    return await stack.enter_async_context(Client(nats_url, tenant=control.tenant, agent="tester"))


async def outcome(client: Client, model: str = "mock/echo", **fields: Any) -> str:
    """`completed`, or the error's code."""
    try:
        await client.complete(model, "Hi", **fields)
    except FleetError as error:
        return error.code
    return "completed"


async def test_200_concurrent_requests_over_two_workers_get_exactly_what_the_limit_gives(
    control: Plane, client: Client, bill: Bill
) -> None:
    await control.put_tenant(limits=Limits(requests_per_minute=0, requests_per_day=40))

    outcomes = Counter(await asyncio.gather(*(outcome(client) for _ in range(200))))

    assert outcomes == {"completed": 40, "tenant_rate_limited": 160}
    await until(lambda: len(bill.records) == 40)
    assert {record.outcome for record in bill.records} == {"completed"}


async def test_a_refused_request_reaches_no_vendor_and_says_when_to_come_back(
    control: Plane, client: Client, bill: Bill
) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=1))
    assert await outcome(client) == "completed"

    events = [event async for event in client.stream("mock/echo", "Hi")]

    (refused,) = events
    assert isinstance(refused, Failed)
    assert refused.error.code == "tenant_rate_limited"
    assert refused.error.retryable
    assert 0 < (refused.error.retry_after_s or 0) <= 86_400
    assert (refused.attempts, refused.usage.input_tokens) == ((), 0)
    await until(lambda: len(bill.records) == 1)
    assert bill.of(refused.request_id) == []


async def test_a_tenant_without_settings_has_the_environments_limits(control: Plane, client: Client) -> None:
    await control.put_tenant(limits=Limits())

    assert [await outcome(client) for _ in range(4)] == ["completed"] * 3 + ["tenant_rate_limited"]


async def test_retries_and_the_way_through_the_resolver_count_once(control: Plane, client: Client) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=2), aliases={"any": ("mock/echo",)})
    failing = {"mock": {"fail": {"code": "overloaded", "times": 2}}}

    assert await outcome(client, "any") == "completed"
    assert await outcome(client, provider_options=failing) == "completed"
    assert await outcome(client, "any") == "tenant_rate_limited"


async def test_an_agent_that_poses_as_a_worker_is_refused_and_counted(control: Plane, client: Client) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=1))
    forged = Handover(model="mock/echo", attempt=2, queued_at=datetime.now(UTC))
    headers = {HANDOVER: forged.to_json().decode(), HANDOVER_PROOF: "00000000.00"}

    endings = [await ending_of_raw(control, f"raw-{n}", headers) for n in range(3)]

    codes = [event.error.code for event in endings if isinstance(event, Failed)]
    assert codes == ["malformed_request", "tenant_rate_limited", "tenant_rate_limited"]
    assert await outcome(client) == "tenant_rate_limited"


async def test_a_message_id_that_looks_like_that_of_a_replay_is_counted(control: Plane, client: Client) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=1))

    endings = [await ending_of_raw(control, f"raw-{n}", {MSG_ID: f"replay:{n}-{control.tenant}"}) for n in range(2)]

    assert [type(event) for event in endings] == [Completed, Failed]


async def ending_of_raw(control: Plane, request_id: str, headers: dict[str, str]) -> Event:
    """The last event of a request that is sent without the client."""
    replies = await control.client.subscribe(subjects.reply(control.tenant, "raw", request_id))
    message = {"role": "user", "content": "Hi"}
    request = {"id": request_id, "tenant": control.tenant, "agent": "raw", "model": "mock/echo", "messages": [message]}
    subject = subjects.request("mock", Priority.INTERACTIVE, control.tenant)
    await control.client.jetstream().publish(subject, json.dumps(request).encode(), headers=headers)
    while not isinstance(event := parse((await replies.next_msg(timeout=PATIENCE_S)).data), Terminal):
        pass
    await replies.unsubscribe()
    return event


async def test_what_cannot_be_served_at_all_does_not_count(control: Plane, client: Client) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=1))

    assert await outcome(client, "nobody-knows-this-model") == "unknown_model"
    assert await outcome(client) == "completed"


async def test_a_request_that_another_worker_goes_on_with_is_not_refused(
    nats_url: str, vault: Vault, tenant: str, stack: AsyncExitStack
) -> None:
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
    slowly = {"mock": {"text": "one two three four five", "between_s": 0.2}}
    async with worker(worker_settings(nats_url, vault, llm_drain_grace_s=0)) as stop:
        await control.put_provider("mock")
        await control.put_tenant(limits=Limits(requests_per_day=1))
        stream = client.stream("mock/echo", "Hi", provider_options=slowly)
        first = await anext(aiter(stream))
        stop.set()
    async with worker(worker_settings(nats_url, vault)):
        events = [event async for event in stream]
        late = await outcome(client)

    assert first.attempt == 1
    assert isinstance(events[-1], Completed)
    assert events[-1].attempt == 2
    assert late == "tenant_rate_limited"


async def test_tokens_that_were_used_refuse_the_next_request(control: Plane, client: Client) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=0, tokens_per_day=50))
    used = 0
    while used < 50:
        completed = await client.complete("mock/echo", "some words to be echoed, and some more of them")
        used += completed.usage.input_tokens + completed.usage.output_tokens

    assert await outcome(client) == "tenant_rate_limited"


async def test_a_nats_server_that_forgot_its_counters_serves_on(nats: NatsServer, vault: Vault, tenant: str) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(worker_settings(nats.url, vault)))
        control = await stack.enter_async_context(plane(nats.url, vault, tenant))
        await control.put_provider("mock")
        await control.put_tenant(limits=Limits(requests_per_day=1))
        client = await stack.enter_async_context(Client(nats.url, tenant=tenant, agent="tester"))
        assert await outcome(client) == "completed"

        await nats.kill()
        await nats.start()

        assert await outcome(client, deadline_s=120) == "completed"
