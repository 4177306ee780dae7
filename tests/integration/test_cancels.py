"""Cancels on their way through the stream: floods, and what is lost on the way."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from contracts import streams, subjects
from contracts.events import Cancelled, Completed, Delta
from contracts.streams import CANCELS_KEPT_PER_TENANT
from fleet.client import Client
from fleet.local.servers import NatsServer
from tests.kit import Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault

LONG = {"mock": {"text": "word " * 100_000, "between_s": 0.01}}


@pytest.fixture
async def stack(nats: NatsServer, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def control(stack: AsyncExitStack, nats: NatsServer, vault: Vault, tenant: str) -> Plane:
    control = await stack.enter_async_context(plane(nats.url, vault, tenant))
    await control.make_streams()
    await control.put_tenant()
    await control.put_provider("mock")
    return control


@pytest.fixture
async def client(stack: AsyncExitStack, control: Plane, nats: NatsServer) -> Client:
    return await stack.enter_async_context(Client(nats.url, tenant=control.tenant, agent="tester"))


async def api(control: Plane, call: str, body: object = None) -> dict[str, Any]:
    answer = await control.client.request(f"$JS.API.{call}", json.dumps(body).encode(), timeout=PATIENCE_S)
    return json.loads(answer.data)


async def stored(control: Plane) -> dict[str, Any]:
    return (await api(control, f"STREAM.INFO.{streams.CANCELS}"))["state"]


async def a_cancel_stops_a_stream(client: Client) -> bool:
    stream = client.stream("mock/echo", "Hi", provider_options=LONG)
    async for event in stream:
        if isinstance(event, Delta):
            await stream.cancel()
        elif not isinstance(event, Cancelled):
            continue
        else:
            return True
    return False


@pytest.mark.parametrize("headers", [None, {"x": "y" * 2000}], ids=["payload", "headers"])
async def test_an_oversized_cancel_is_kept_nowhere_and_costs_others_nothing(
    stack: AsyncExitStack,
    control: Plane,
    client: Client,
    nats: NatsServer,
    vault: Vault,
    headers: dict[str, str] | None,
) -> None:
    await stack.enter_async_context(worker(worker_settings(nats.url, vault)))
    mallory = (await stack.enter_async_context(plane(nats.url, vault, "mallory"))).client
    payload = b'{"request_id": "r1"}' if headers else b"x" * 7_000_000

    for _ in range(40):
        await mallory.publish(subjects.cancel("mallory"), payload, headers=headers)
        await mallory.flush(timeout=int(PATIENCE_S))

    assert isinstance([event async for event in client.stream("mock/echo", "Hi")][-1], Completed)
    assert await a_cancel_stops_a_stream(client)
    assert (await stored(control))["messages"] == 1


async def test_a_cancel_outlives_the_flood_of_another_tenant(
    stack: AsyncExitStack, control: Plane, client: Client, nats: NatsServer, vault: Vault
) -> None:
    stream = client.stream("mock/echo", "Hi")
    await stream.cancel()
    for number in range(3 * CANCELS_KEPT_PER_TENANT):
        await control.client.publish(subjects.cancel("mallory"), b'{"request_id": "%d"}' % number)
    await control.client.flush(timeout=int(PATIENCE_S))

    await stack.enter_async_context(worker(worker_settings(nats.url, vault)))

    assert [type(event) async for event in stream] == [Cancelled]
    assert (await stored(control))["messages"] <= 1 + CANCELS_KEPT_PER_TENANT


async def test_cancels_are_heard_again_when_their_consumer_is_gone(
    stack: AsyncExitStack, control: Plane, client: Client, nats: NatsServer, vault: Vault
) -> None:
    await stack.enter_async_context(worker(worker_settings(nats.url, vault)))
    (consumer,) = (await api(control, f"CONSUMER.NAMES.{streams.CANCELS}"))["consumers"]

    await api(control, f"CONSUMER.DELETE.{streams.CANCELS}.{consumer}")

    assert await a_cancel_stops_a_stream(client)


async def test_cancels_are_heard_again_when_their_stream_was_made_anew(
    stack: AsyncExitStack, control: Plane, client: Client, nats: NatsServer, vault: Vault
) -> None:
    await stack.enter_async_context(worker(worker_settings(nats.url, vault)))
    assert await a_cancel_stops_a_stream(client)

    await api(control, f"STREAM.DELETE.{streams.CANCELS}")
    await control.make_streams()

    assert await a_cancel_stops_a_stream(client)


async def test_cancels_are_heard_again_after_a_restart(
    stack: AsyncExitStack, control: Plane, client: Client, nats: NatsServer, vault: Vault
) -> None:
    await stack.enter_async_context(worker(worker_settings(nats.url, vault)))

    await nats.kill()
    await nats.start()
    await until(lambda: control.client.is_connected)
    await control.make_streams()

    assert await a_cancel_stops_a_stream(client)
