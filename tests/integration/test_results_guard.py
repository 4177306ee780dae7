"""One tenant's results do not push out those of the others."""

import asyncio
from collections.abc import AsyncGenerator

import nats
import pytest
from nats.aio.client import Client as Nats

from contracts import streams, subjects
from runtime.broker import Broker
from runtime.jetstream.results_guard import ResultsGuard
from runtime.jetstream.stored_sizes import stored_sizes
from tests.kit import connected

CAPACITY = 16 * 1024**2
MB = 1024**2


@pytest.fixture
async def broker(nats_url: str) -> AsyncGenerator[Broker]:
    async with connected(nats_url) as broker:
        await streams.ensure(broker.request, streams.Sizes(max_result_bytes=CAPACITY))
        yield broker


@pytest.fixture
async def worker(nats_url: str, broker: Broker) -> AsyncGenerator[Nats]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


async def store(client: Nats, tenant: str, count: int, size: int, **headers: str) -> None:
    js, first = client.jetstream(), await number_of(client, tenant)
    for at in range(first, first + count):
        subject = subjects.result(tenant, "a", f"r{at}")
        await js.publish(subject, b"x" * size, headers=headers or None)


async def number_of(client: Nats, tenant: str) -> int:
    return len(await kept(client, tenant))


async def kept(client: Nats, tenant: str) -> list[str]:
    """The ids of a tenant's results."""
    info = await client.jetstream().stream_info(streams.RESULTS, subjects_filter=subjects.results_of_tenant(tenant))
    return sorted((name.rpartition(".")[2] for name in info.state.subjects or {}), key=lambda name: int(name[1:]))


async def bytes_kept(client: Nats) -> int:
    return (await client.jetstream().stream_info(streams.RESULTS)).state.bytes


async def look(guard: ResultsGuard) -> None:
    """Until it has counted everything."""
    while await guard.look() is not None:
        await asyncio.sleep(0)


async def test_who_has_too_much_loses_its_oldest_and_others_lose_nothing(broker: Broker, worker: Nats) -> None:
    guard = ResultsGuard(broker)
    await store(worker, "quiet", 100, 1000)
    await store(worker, "loud", 12, MB)
    await store(worker, "quiet", 100, 1000)

    await look(guard)

    left = await kept(worker, "loud")
    assert left == [f"r{number}" for number in range(12 - len(left), 12)]
    assert len(left) == 6, "of seven sixteenths, less what the other one has"
    assert await number_of(worker, "quiet") == 200

    for _ in range(4):
        await store(worker, "loud", 2, MB)
        await look(guard)
    assert await number_of(worker, "quiet") == 200
    assert await bytes_kept(worker) < CAPACITY / 2


async def test_two_that_flood_have_the_same_and_nothing_happens_before_half_is_full(
    broker: Broker, worker: Nats
) -> None:
    guard = ResultsGuard(broker)
    await store(worker, "one", 5, MB)
    await store(worker, "two", 25, MB // 10)
    await look(guard)
    assert (await number_of(worker, "one"), await number_of(worker, "two")) == (5, 25)

    await store(worker, "two", 25, MB // 10)
    await look(guard)

    assert await number_of(worker, "one") in (3, 4)
    assert 30 < await number_of(worker, "two") < 36


async def test_what_is_gone_before_its_time_costs_nobody_anything(broker: Broker, worker: Nats) -> None:
    """It is counted anew when more was counted than there is."""
    guard = ResultsGuard(broker)
    await store(worker, "first", 1, 1000)
    await store(worker, "brief", 7, MB)
    await look(guard)
    await worker.jetstream().purge_stream(streams.RESULTS, subject=subjects.results_of_tenant("brief"))
    await store(worker, "honest", 20, MB // 3)
    await look(guard)
    assert await number_of(worker, "honest") == 20

    await store(worker, "other", 6, MB // 3)
    await look(guard)

    assert await number_of(worker, "other") == 6
    assert await number_of(worker, "honest") > 12


async def test_a_stream_that_was_made_anew_is_counted_from_its_beginning(broker: Broker, worker: Nats) -> None:
    guard = ResultsGuard(broker)
    await store(worker, "loud", 20, MB // 4)
    await look(guard)
    await worker.jetstream().delete_stream(streams.RESULTS)
    await streams.ensure(broker.request, streams.Sizes(max_result_bytes=CAPACITY))
    await store(worker, "loud", 9, MB)

    await look(guard)

    assert await kept(worker, "loud") == [f"r{number}" for number in range(3, 9)]


@pytest.mark.parametrize("headers", [{}, {"Nats-TTL": "3600s"}])
async def test_sizes_are_those_that_the_stream_counts(broker: Broker, worker: Nats, headers: dict[str, str]) -> None:
    await store(worker, "acme", 50, 500, **headers)
    before = await bytes_kept(worker)

    read = await stored_sizes(broker, stream=streams.RESULTS, first_seq=11, count=100)

    assert [each.sequence for each in read] == list(range(11, 51))
    assert {each.subject for each in read} == {subjects.result("acme", "a", f"r{number}") for number in range(10, 50)}
    assert sum(each.size for each in read) == pytest.approx(before * 40 / 50, rel=0.08)
    assert len(await stored_sizes(broker, stream=streams.RESULTS, first_seq=1, count=3)) == 3
