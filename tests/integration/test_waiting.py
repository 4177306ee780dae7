"""A tenant whose requests wait does not fill the worker for the others."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from uuid import uuid4

import nats
import psutil
import pytest
from nats.aio.client import Client as Nats

from contracts.events import Completed
from fleet.client import Client
from tests.kit import Bill, Plane, plane, worker, worker_process, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault

SLOTS = 8
NEVER_S = 3600.0
LONG = {"mock": {"text": "a b c d e f g h", "between_s": 0.05}}


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


async def _connected(stack: AsyncExitStack, nats_url: str) -> Nats:
    connection = await nats.connect(nats_url)
    stack.push_async_callback(connection.close)
    return connection


async def _flood(nats_url: str, tenant: str, *, count: int, agents: int = 1, body: int = 0, **script: float) -> None:
    """Requests to a vendor that is slow or does not answer, all before anything else is asked."""
    connection = await nats.connect(nats_url)
    for number in range(count):
        request = {
            "id": uuid4().hex,
            "tenant": tenant,
            "agent": f"loud-{number % agents}",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "x" * max(body, 1)}],
            "provider_options": {"mock": script},
        }
        await connection.jetstream().publish(f"llm.v1.request.mock.interactive.{tenant}", json.dumps(request).encode())
    await connection.close()


async def _tenant(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str, *, most: int | None) -> Client:
    control: Plane = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.make_streams()
    await control.put_tenant()
    await control.put_provider("mock", {} if most is None else {"max_concurrency": most})
    return await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))


async def test_a_quiet_tenant_is_served_while_another_waits_for_its_endpoint(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    await stack.enter_async_context(worker(worker_settings(nats_url, vault), concurrency=SLOTS))
    narrow = await _tenant(stack, nats_url, vault, tenant, most=1)
    quiet = await _tenant(stack, nats_url, vault, f"{tenant}-quiet", most=None)
    flood = [asyncio.create_task(narrow.complete("mock/echo", "Hello", provider_options=LONG)) for _ in range(16)]
    await until(lambda: any(task.done() for task in flood))

    for _ in range(5):
        await quiet.complete("mock/echo", "Hello")

    assert sum(task.done() for task in flood) < 16, "the flood is still waiting"
    for task in flood:
        assert isinstance(await task, Completed)


@pytest.mark.slow
@pytest.mark.parametrize("agents", [1, 1000])
@pytest.mark.parametrize("slots", [8, 64])
async def test_others_are_served_behind_a_flood_whose_vendor_does_not_answer(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str, agents: int, slots: int
) -> None:
    """What is asked here would wait for ever in the order of the stream, and is deep in it."""
    await _tenant(stack, nats_url, vault, tenant, most=None)
    quiet = await _tenant(stack, nats_url, vault, f"{tenant}-quiet", most=None)
    await _flood(nats_url, tenant, count=1000, agents=agents, first_token_s=NEVER_S)
    await stack.enter_async_context(worker(worker_settings(nats_url, vault, llm_drain_grace_s=0), concurrency=slots))

    for _ in range(20):
        done = await asyncio.wait_for(quiet.complete("mock/echo", "Hello"), PATIENCE_S)
        assert isinstance(done, Completed)


@pytest.mark.slow
async def test_a_chat_is_served_behind_a_flood_of_another_agent_of_its_tenant(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    chat = await _tenant(stack, nats_url, vault, tenant, most=None)
    await _flood(nats_url, tenant, count=1200, first_token_s=NEVER_S)
    await stack.enter_async_context(worker(worker_settings(nats_url, vault, llm_drain_grace_s=0)))

    for _ in range(20):
        assert isinstance(await asyncio.wait_for(chat.complete("mock/echo", "Hello"), PATIENCE_S), Completed)


@pytest.mark.slow
async def test_every_request_of_a_flood_is_served_once(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    """Two workers put most of it off, several times, and neither of them loses or repeats any."""
    client = await _tenant(stack, nats_url, vault, tenant, most=None)
    bill = await stack.enter_async_context(Bill.watch(await _connected(stack, nats_url), tenant))
    for _ in range(2):
        await stack.enter_async_context(worker(worker_settings(nats_url, vault), concurrency=SLOTS))
    script = {"mock": {"text": "a", "first_token_s": 0.05}}

    answers = await asyncio.gather(
        *(client.complete("mock/echo", "Hello", provider_options=script) for _ in range(300))
    )

    assert all(isinstance(answer, Completed) for answer in answers)
    await until(lambda: len(bill.records) >= 300)
    assert len({record.request_id for record in bill.records}) == len(bill.records) == 300


@pytest.mark.slow
async def test_a_flood_of_large_requests_takes_a_bounded_part_of_the_memory(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    """They are 0.7 GB, and there are slots for all of them."""
    await _tenant(stack, nats_url, vault, tenant, most=None)
    quiet = await _tenant(stack, nats_url, vault, f"{tenant}-quiet", most=None)
    process = psutil.Process((await stack.enter_async_context(worker_process(nats_url, vault))).pid)
    await quiet.complete("mock/echo", "Hello")
    idle = process.memory_info().rss
    await _flood(nats_url, tenant, count=100, body=7_000_000, first_token_s=NEVER_S)

    for _ in range(20):
        assert isinstance(await asyncio.wait_for(quiet.complete("mock/echo", "Hello"), PATIENCE_S), Completed)
        assert process.memory_info().rss - idle < 400 * 1024**2


@pytest.mark.slow
async def test_slots_of_a_killed_worker_are_free_again(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    client = await _tenant(stack, nats_url, vault, tenant, most=2)
    doomed = await stack.enter_async_context(worker_process(nats_url, vault))
    stalled = {"mock": {"text": "a b", "between_s": 30}}
    lost = [client.stream("mock/echo", "Hello", provider_options=stalled) for _ in range(2)]
    for stream in lost:
        async for event in stream:
            if event.seq == 1:
                break
    doomed.kill()
    for stream in lost:
        await stream.cancel()

    async with worker(worker_settings(nats_url, vault)):
        done = await asyncio.wait_for(client.complete("mock/echo", "Hello"), 60)

    assert isinstance(done, Completed)
