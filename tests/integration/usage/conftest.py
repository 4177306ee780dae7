"""A ledger on a real database, and the consumer on real servers."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts import streams, subjects
from contracts.control import MSG_ID
from contracts.usage import UsageRecord
from migrations.engine import make_engine
from runtime import broker
from runtime.broker import Broker
from runtime.settings import BrokerSettings
from tests.patience import PATIENCE_S
from workers.usage import app
from workers.usage.rollups import ROLL_UPS
from workers.usage.settings import UsageSettings
from workers.usage.verification import Difference, Period, verify

_BOOKED_WITHIN_S = streams.USAGE_ACK_WAIT_S + PATIENCE_S
"""A NATS server that was killed may have forgotten acks; what they were for comes again after `ack_wait`."""

Consumer = Callable[[], AbstractAsyncContextManager[asyncio.Event]]


class Books:
    """What the database says."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        async with self.engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(text(sql))).mappings()]

    async def events(self) -> list[dict[str, Any]]:
        return await self.rows("SELECT * FROM llm_usage_events ORDER BY id, day")

    async def count(self) -> int:
        return (await self.rows("SELECT count(*) FROM llm_usage_events"))[0]["count"]

    async def rollups(self) -> list[dict[str, Any]]:
        return await self.rows("SELECT * FROM llm_provider_usage ORDER BY provider_id, date, model")

    async def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Every roll-up, whole, and the events without the time when they were booked."""
        found = {r.name: await self.rows(f"SELECT * FROM {r.name} ORDER BY {', '.join(r.keys)}") for r in ROLL_UPS}
        return {**found, "events": [{**event, "booked_at": None} for event in await self.events()]}

    async def differences(self) -> list[Difference]:
        return [each async for _, found in verify(self.engine, Period()) for each in found]

    async def assert_balanced(self) -> None:
        """The roll-ups are the sums of the entries, to the last digit."""
        assert await self.differences() == []
        sums = await self.rows("""
            SELECT provider_id, day AS date, model, min(provider) AS provider, min(tenant) AS tenant,
                   sum(input_tokens)::bigint AS prompt_tokens, sum(output_tokens)::bigint AS completion_tokens,
                   sum(cache_read_tokens)::bigint AS cache_read_tokens,
                   sum(cache_write_tokens)::bigint AS cache_write_tokens,
                   sum(reasoning_tokens)::bigint AS reasoning_tokens, coalesce(sum(cost), 0) AS total_cost,
                   count(*) FILTER (WHERE cost IS NULL) AS unpriced_count, count(*) AS request_count,
                   count(*) FILTER (WHERE outcome IN ('failed', 'abandoned')) AS error_count
            FROM llm_usage_events GROUP BY provider_id, day, model ORDER BY provider_id, day, model""")
        assert await self.rollups() == sums


@pytest_asyncio.fixture
async def books(database_url: str) -> AsyncGenerator[Books]:
    engine = make_engine(SecretStr(database_url), application_name="test")
    yield Books(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def connection(nats_url: str) -> AsyncGenerator[Broker]:
    settings = BrokerSettings(nats_url=nats_url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX") as connected:
        await broker.ensure_streams(connected, settings)
        yield connected


@pytest.fixture
def consumer(nats_url: str, database_url: str) -> Consumer:
    return lambda: consuming(nats_url, database_url)


@asynccontextmanager
async def consuming(nats_url: str, database_url: str) -> AsyncGenerator[asyncio.Event]:
    """A consumer that has started; yields what stops it."""
    settings = UsageSettings(
        nats_url=nats_url, database_url=SecretStr(database_url), llm_http_port=0, llm_attempt_grace_s=1
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(app.run(settings, stop=stop, ready=ready), name="usage")
    up = asyncio.create_task(ready.wait())
    await asyncio.wait({task, up}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    if task.done():
        await task
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


async def publish(connection: Broker, *records: UsageRecord) -> None:
    """Returns when the stream has them."""
    await publish_raw(
        connection, *((subjects.usage(r.provider, r.tenant), r.to_json(), {MSG_ID: r.id}) for r in records)
    )


async def publish_raw(connection: Broker, *messages: tuple[str, bytes, dict[str, str]]) -> None:
    stored = await _stored(connection)
    for subject, payload, headers in messages:
        await connection.client.publish(subject, payload, headers=headers)
    async with asyncio.timeout(_BOOKED_WITHIN_S):
        while True:
            if await _stored(connection) >= stored + len(messages):
                return
            await asyncio.sleep(0.01)


async def _stored(connection: Broker) -> int:
    return (await connection.client.jetstream().stream_info(streams.USAGE)).state.last_seq


async def unbooked(connection: Broker) -> int:
    """Records that no consumer has acked yet."""
    info = await connection.client.jetstream().consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def until_booked(connection: Broker) -> None:
    async with asyncio.timeout(_BOOKED_WITHIN_S):
        while True:
            if not await unbooked(connection):
                return
            await asyncio.sleep(0.02)
