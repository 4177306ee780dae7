"""One tenant's flood of answers, and what another one can still resume from: workers' accounts on a real server."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.js.api import StreamInfo

from contracts import streams
from contracts.streams import Sizes
from runtime.broker import Broker
from tests.kit import connected
from tests.patience import until
from workers.clock import Clock
from workers.jetstream import stored_events
from workers.jetstream.reply_publisher import ReplyPublisher
from workers.jetstream.reply_shares import ReplyShares, share_of
from workers.providers.base import Chunk
from workers.request.events import EventStream
from workers.request.live_streams import LiveStreams, Tracked

MB = 1024 * 1024
RING = 64 * MB
SHARE = share_of(RING)
WORKERS = 3
DELTA = 10_000
ANSWER = "x" * 375_000
"""204 of them, said twice as deltas and end, are more than the ring."""


class Worker:
    """The part of a worker that says events."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.shares = ReplyShares(broker, worker=name, share=SHARE, clock=Clock())
        self.publisher = ReplyPublisher(broker, self.shares)
        self.live = LiveStreams(reconnects=lambda: 0, until_kept=_at_once, replies=self.publisher)

    async def answer(self, tenant: str, number: int, *, deltas: bool = True, text: str = ANSWER) -> None:
        events = EventStream(
            self.publisher, subject=f"llm.v1.reply.{tenant}.a.r{number}", request_id=f"r{number}", attempt=1
        )
        async with Tracked(self.live, events):
            if deltas:
                for at in range(0, len(text), DELTA):
                    events.delta(Chunk(text=text[at : at + DELTA]))
            await self.publisher.event(events.subject, b'{"text": "%b"}' % text.encode())
            events.ended = True


async def _at_once() -> None:
    return


@pytest.fixture
async def workers(nats_url: str) -> AsyncGenerator[list[Worker]]:
    async with AsyncExitStack() as stack:
        started: list[Worker] = []
        for number in range(WORKERS):
            broker = await stack.enter_async_context(connected(nats_url))
            await streams.ensure(broker.request, Sizes(max_reply_bytes=RING))
            worker = Worker(broker, f"w{number}")
            tasks = [
                asyncio.create_task(work)
                for work in (worker.shares.bucket.run(), worker.shares.look(), worker.shares.purge())
            ]
            for task in tasks:
                stack.callback(task.cancel)
            await worker.shares.bucket.wait_until_loaded()
            started.append(worker)
        for worker in started:
            await worker.shares.look_once()
        yield started


async def stored(client: Nats) -> StreamInfo:
    return await client.jetstream().stream_info(streams.REPLIES, subjects_filter="llm.v1.reply.>")


@pytest.mark.parametrize("deltas", [True, False])
async def test_a_flood_of_large_answers_pushes_out_no_other_tenants_events(
    nats_url: str, workers: list[Worker], deltas: bool
) -> None:
    client = await nats.connect(nats_url)
    await workers[0].answer("quiet", 0)
    said = -(-len(ANSWER) // DELTA) + 1
    while (before := (await stored(client)).state).messages < said:
        await asyncio.sleep(0.01)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, (await stored(client)).state.bytes)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    numbers = iter(range(204 if deltas else 408))

    async def flood(worker: Worker) -> None:
        for number in numbers:
            await worker.answer("mallory", number, deltas=deltas)

    await asyncio.gather(*(flood(worker) for worker in workers for _ in range(16)))
    watching.cancel()
    logging.getLogger(__name__).info("the tenant had %.1f MB at most", (most - before.bytes) / 1e6)
    kept = (await stored(client)).state.subjects or {}
    await client.close()

    assert kept["llm.v1.reply.quiet.a.r0"] == said
    assert most - before.bytes < 2 * SHARE + WORKERS * 2 * len(ANSWER)


async def test_what_is_passed_on_reaches_the_agent_and_is_not_stored(nats_url: str, workers: list[Worker]) -> None:
    client = await nats.connect(nats_url)
    heard = await client.subscribe("llm.v1.reply.quiet.>")
    await client.flush()

    workers[0].publisher.pass_on("llm.v1.reply.quiet.a.r1", b"live")
    await workers[0].publisher.event("llm.v1.reply.quiet.a.r1", b"stored")

    assert [(await heard.next_msg(timeout=30)).data for _ in range(2)] == [b"live", b"stored"]
    async with connected(nats_url) as broker:
        assert [event async for event in stored_events.raw(broker, "llm.v1.reply.quiet.a.r1")] == [b"stored"]
    await client.close()


async def test_what_a_dead_worker_has_stored_counts_for_one_that_is_started_later(
    nats_url: str, workers: list[Worker]
) -> None:
    for number in range(10):
        await workers[0].answer("mallory", number)
    await workers[0].shares.look_once()

    async with connected(nats_url) as broker:
        late = Worker(broker, "late")
        watching = asyncio.create_task(late.shares.bucket.run())
        await late.shares.bucket.wait_until_loaded()
        await until(lambda: late.shares.limit("mallory") < SHARE)
        watching.cancel()

        assert late.shares.limit("quiet") == max(SHARE // 4, 2 * MB)
