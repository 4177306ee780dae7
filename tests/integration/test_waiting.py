"""A tenant whose requests wait does not fill the worker for the others."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from contracts.events import Completed
from fleet.client import Client
from tests.kit import Plane, plane, worker, worker_process, worker_settings
from tests.patience import until
from tests.servers import Vault

SLOTS = 8
LONG = {"mock": {"text": "a b c d e f g h", "between_s": 0.05}}


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


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
