"""One tenant does not fill the queue of requests for all."""

import random
from collections.abc import AsyncGenerator

import nats
import nats.js.errors
import pytest
from nats.aio.client import Client as Nats

from contracts import streams, subjects
from contracts.subjects import Priority
from runtime.broker import Broker
from runtime.jetstream.queue_guard import QueueGuard
from tests.kit import connected

CAPACITY = 64 * 1024**2
LARGE = 1024**2


@pytest.fixture
async def broker(nats_url: str) -> AsyncGenerator[Broker]:
    async with connected(nats_url) as broker:
        await streams.ensure(broker.request, streams.Sizes(max_queue_bytes=CAPACITY))
        yield broker


@pytest.fixture
async def agent(nats_url: str, broker: Broker) -> AsyncGenerator[Nats]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


async def publish(client: Nats, tenant: str, bodies: list[bytes], headers: dict[str, str] | None = None) -> None:
    """To a pool that has no worker."""
    for number, body in enumerate(bodies):
        priority = Priority.BACKGROUND if number % 2 else Priority.INTERACTIVE
        await client.jetstream().publish(subjects.request("ollama", priority, tenant), body, headers=headers)


async def waiting(client: Nats, tenant: str) -> int:
    info = await client.jetstream().stream_info(streams.REQUESTS, subjects_filter=f"llm.v1.request.*.*.{tenant}")
    return sum((info.state.subjects or {}).values())


@pytest.mark.parametrize("headers", [{}, {"x": "x" * 60_000}])
async def test_who_fills_the_queue_loses_the_oldest_and_others_lose_nothing(
    broker: Broker, agent: Nats, headers: dict[str, str]
) -> None:
    await publish(agent, "quiet", [b"small"] * 50)
    with pytest.raises(nats.js.errors.APIError, match="maximum bytes exceeded"):
        await publish(agent, "loud", [b"x" * LARGE] * 70, headers)
    with pytest.raises(nats.js.errors.APIError, match="maximum bytes exceeded"):
        await publish(agent, "quiet", [b"x" * 2 * LARGE])

    await QueueGuard(broker, rng=random.Random(7)).look()

    assert await waiting(agent, "quiet") == 50
    assert 4 <= await waiting(agent, "loud") <= 10, "a ninth of the queue"
    await publish(agent, "quiet", [b"x" * 2 * LARGE])


@pytest.mark.parametrize("sizes", [[10, LARGE, LARGE, LARGE] * 25, [10] * 5 + [LARGE] * 70])
async def test_who_mixes_small_requests_with_large_ones_is_found(broker: Broker, agent: Nats, sizes: list[int]) -> None:
    await publish(agent, "busy", [b"x" * 1000] * 500)
    with pytest.raises(nats.js.errors.APIError, match="maximum bytes exceeded"):
        await publish(agent, "loud", [b"x" * size for size in sizes])

    guard = QueueGuard(broker, rng=random.Random(7))
    for _ in range(3):
        await guard.look()

    state = (await agent.jetstream().stream_info(streams.REQUESTS)).state
    assert state.bytes < CAPACITY / 4
    assert await waiting(agent, "busy") == 500


async def test_a_queue_that_is_not_full_is_left_alone(broker: Broker, agent: Nats) -> None:
    await publish(agent, "loud", [b"x" * LARGE] * 14)

    await QueueGuard(broker, rng=random.Random(7)).look()

    assert await waiting(agent, "loud") == 14
