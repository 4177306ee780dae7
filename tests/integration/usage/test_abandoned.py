"""The vendor calls that nobody ended, on real NATS and PostgreSQL."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

from contracts import streams, subjects
from contracts.attempts import Begun, Unmade, new_id
from contracts.providers import Price, PublishedTenant
from contracts.usage import Outcome, UsageSource
from contracts.wire import utc_now
from runtime.broker import Broker
from tests.integration.usage.conftest import Books, Consumer, publish, until_booked
from tests.patience import PATIENCE_S
from tests.usage import record

PRICED = "gpt-4o-mini"


def begun(*, ended_s_ago: float = 30.0, **changes: object) -> Begun:
    """A call that must have ended some seconds ago."""
    started_at = utc_now() - timedelta(seconds=ended_s_ago + 60)
    return Begun.model_validate(
        {
            "id": new_id(started_at),
            "request_id": "r1",
            "attempt": 1,
            "tenant": "acme",
            "agent": "a",
            "provider": "openai",
            "provider_id": "p1",
            "endpoint": "default",
            "model": PRICED,
            "worker": "w1",
            "request_seq": 1,
            "started_at": started_at,
            "ends_by": started_at + timedelta(seconds=60),
            "queued_s": 0.1,
            "input_tokens": 1000,
            **changes,
        }
    )


async def write(connection: Broker, *entries: Begun | Unmade, request_id: str = "r1") -> None:
    subject = subjects.attempt("acme", "a", request_id)
    for entry in entries:
        await connection.client.jetstream().publish(subject, entry.to_json())


async def until(done: Callable[[int, int], bool], connection: Broker) -> None:
    """Waits until the consumer of the journal says `done` of what waits and what it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info = await connection.client.jetstream().consumer_info(streams.ATTEMPTS, streams.ATTEMPTS_CONSUMER)
            if done(info.num_pending or 0, info.num_ack_pending or 0):
                return
            await asyncio.sleep(0.02)


async def until_looked_after(connection: Broker) -> None:
    await until(lambda waiting, held: not waiting and not held, connection)


async def test_a_call_that_nobody_ended_is_booked_with_what_is_known(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    lost = begun()
    await write(connection, lost)

    async with consumer():
        await until_looked_after(connection)

    (event,) = await books.events()
    assert (event["id"], event["request_id"], event["attempt"]) == (lost.id, "r1", 1)
    assert (event["outcome"], event["usage_source"]) == (Outcome.ABANDONED, UsageSource.UNKNOWN)
    assert (event["input_tokens"], event["output_tokens"], event["price_source"]) == (1000, 0, "catalogue")
    assert event["cost"] > 0
    await books.assert_balanced()


async def test_a_call_that_was_booked_is_left_alone_and_one_that_was_not_made_is_none(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    ended, not_made = begun(), begun(request_id="r2")
    booked = record("r1", started_at=ended.started_at).model_copy(update={"id": ended.id})
    await write(connection, ended)
    await write(connection, not_made, Unmade(id=not_made.id), request_id="r2")

    async with consumer():
        await publish(connection, booked)
        await until_booked(connection)
        await until_looked_after(connection)

    (event,) = await books.events()
    assert (event["id"], event["outcome"]) == (ended.id, booked.outcome)


async def test_a_worker_that_lives_after_all_knows_better(connection: Broker, books: Books, consumer: Consumer) -> None:
    slow = begun()
    await write(connection, slow)

    async with consumer():
        await until_looked_after(connection)
        late = record("r1", started_at=slow.started_at, source=UsageSource.VENDOR).model_copy(update={"id": slow.id})
        await publish(connection, late)
        await until_booked(connection)

    (event,) = await books.events()
    assert (event["outcome"], event["usage_source"]) == (late.outcome, UsageSource.VENDOR)
    await books.assert_balanced()


async def test_a_call_that_may_still_be_under_way_is_waited_for(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    started_at = utc_now() - timedelta(minutes=5)
    running = begun(started_at=started_at, ends_by=started_at + timedelta(minutes=10))
    await write(connection, running, begun(request_id="r3"))

    async with consumer():
        async with asyncio.timeout(PATIENCE_S):
            while not await books.count():
                await asyncio.sleep(0.02)
        await until(lambda waiting, held: not waiting and held == 1, connection)

    (event,) = await books.events()
    assert event["request_id"] == "r3"


async def test_the_tenants_own_prices_count(connection: Broker, books: Books, consumer: Consumer) -> None:
    bucket = await connection.client.jetstream().key_value(subjects.CONFIG_BUCKET)
    tenant = PublishedTenant(
        slug="acme", prices={f"openai/{PRICED}": Price(input_mtok=Decimal(5), output_mtok=Decimal(5))}
    )
    await bucket.put(subjects.config_key_of_tenant("acme"), tenant.to_json())
    await write(connection, begun())

    async with consumer():
        await until_looked_after(connection)

    (event,) = await books.events()
    assert (event["price_source"], event["cost"]) == ("tenant", Decimal("0.005"))
