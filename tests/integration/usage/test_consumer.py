"""The usage consumer on real NATS and PostgreSQL."""

import asyncio
from secrets import token_hex
from typing import Any

from contracts import streams
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, MSG_ID
from contracts.usage import Outcome, UsageSource
from runtime.broker import Broker
from tests.integration.usage.conftest import Books, Consumer, publish, publish_raw, unbooked, until_booked
from tests.usage import record
from workers.usage.backlog import trim
from workers.usage.consumer import BATCH_SIZE, MALFORMED_RECORD


async def dead_letters(connection: Broker) -> list[Any]:
    stream = connection.client.jetstream()
    count = (await stream.stream_info(streams.DEAD)).state.messages
    return [await stream.get_msg(streams.DEAD, seq) for seq in range(1, count + 1)]


async def until_acked(connection: Broker) -> int:
    """Waits until the server has seen every ack; returns what nobody has pulled. Well below `ack_wait`."""
    async with asyncio.timeout(streams.USAGE_ACK_WAIT_S / 2):
        while True:
            info = await connection.client.jetstream().consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
            if not info.num_ack_pending:
                return info.num_pending or 0
            await asyncio.sleep(0.02)


async def test_records_are_booked_and_leave_the_queue(connection: Broker, books: Books, consumer: Consumer) -> None:
    records = [record(tenant=f"t{n % 3}", provider_id=f"p{n % 3}") for n in range(2 * BATCH_SIZE + 17)]
    await publish(connection, *records)

    async with consumer():
        await until_booked(connection)
        one_more = record()
        await publish(connection, one_more)
        await until_booked(connection)

    assert await books.count() == len(records) + 1
    await books.assert_balanced()


async def test_trimming_removes_what_is_booked_and_nothing_else(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    booked, waiting = [record() for _ in range(30)], [record() for _ in range(7)]
    await publish(connection, *booked)
    async with consumer():
        await until_booked(connection)
    await until_acked(connection)
    await publish(connection, *waiting)

    assert await trim(connection.client) >= len(booked)
    assert (await connection.client.jetstream().stream_info(streams.USAGE)).state.messages == len(waiting)
    async with consumer():
        await until_booked(connection)
    assert await books.count() == len(booked) + len(waiting)


async def test_two_consumers_share_the_work(connection: Broker, books: Books, consumer: Consumer) -> None:
    async with consumer(), consumer():
        for _ in range(10):
            await publish(connection, *(record(provider_id=f"p{n % 5}") for n in range(300)))
        await until_booked(connection)

    assert await books.count() == 3000
    await books.assert_balanced()


async def test_a_second_word_on_an_attempt_is_heard_after_the_window_of_deduplication(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    guess = record("r", source=UsageSource.ESTIMATED, outcome=Outcome.ABANDONED, cost="1")
    truth = record("r", cost="0.5")

    async with consumer():
        for said in (guess, truth, guess):
            await publish_raw(connection, ("llm.v1.usage.openai.acme", said.to_json(), {}))
            await until_booked(connection)

    (event,) = await books.events()
    assert (event["usage_source"], event["outcome"], str(event["cost"])) == ("vendor", "completed", "0.5000000000")
    await books.assert_balanced()


async def test_what_is_no_record_goes_to_the_dead_letters_and_holds_up_no_other(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    good = [record() for _ in range(20)]
    bad = {
        "llm.v1.usage.openai.acme": b"{not json",
        "llm.v1.usage.openai.other": record().to_json(),
        "llm.v1.usage.nobody": b"{}",
        "llm.v1.usage.openai.to-a.deeper.place": record().to_json(),
    }
    await publish(connection, *good[:10])
    await publish_raw(connection, *((subject, payload, {}) for subject, payload in bad.items()))
    await publish(connection, *good[10:])

    async with consumer():
        await until_booked(connection)
        letters = await dead_letters(connection)

    assert await books.count() == 20
    assert {letter.headers[DEAD_SUBJECT]: letter.data for letter in letters} == bad
    assert {letter.headers[DEAD_CODE] for letter in letters} == {MALFORMED_RECORD}
    assert all(letter.headers[DEAD_REASON] and letter.headers[DEAD_AT] for letter in letters)
    assert sorted(letter.subject for letter in letters) == [
        "llm.v1.dead.openai.acme",
        "llm.v1.dead.openai.other",
        "llm.v1.dead.unknown.unknown",
        "llm.v1.dead.unknown.unknown",
    ]


async def test_a_record_that_the_database_refuses_is_found_among_many(
    connection: Broker, books: Books, consumer: Consumer
) -> None:
    records = [record() for _ in range(40)]
    poison = [record(model=token_hex(5000)) for _ in range(2)]
    await publish(connection, *records[:13], poison[0], *records[13:20], poison[1], *records[20:])

    async with consumer():
        await until_booked(connection)
        letters = await dead_letters(connection)

    assert sorted(letter.data for letter in letters) == sorted(r.to_json() for r in poison)
    assert all("PostgreSQL refuses" in letter.headers[DEAD_REASON] for letter in letters)
    assert await books.count() == 40
    await books.assert_balanced()


async def test_a_stopped_consumer_holds_nothing_back(connection: Broker, books: Books, consumer: Consumer) -> None:
    """Otherwise the next one would wait for `ack_wait`."""
    total = 8 * BATCH_SIZE
    await publish(connection, *(record() for _ in range(total)))

    async with consumer() as stop:
        while True:
            if await unbooked(connection) < total:
                break
        stop.set()
    left = await until_acked(connection)
    assert left
    assert await books.count() == total - left

    async with consumer():
        await until_booked(connection)
    assert await books.count() == total


async def test_the_server_says_the_same_consumer_after_the_role_ran(connection: Broker, consumer: Consumer) -> None:
    stream = connection.client.jetstream()
    before = await stream.consumer_info(streams.USAGE, streams.USAGE_CONSUMER)

    async with consumer():
        await publish(connection, record())
        await until_booked(connection)

    after = await stream.consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
    assert (after.config, after.created) == (before.config, before.created)
    assert [info.name for info in await stream.consumers_info(streams.USAGE)] == [streams.USAGE_CONSUMER]


async def test_a_dead_letter_is_not_doubled_when_its_record_comes_again(connection: Broker, consumer: Consumer) -> None:
    await publish_raw(connection, ("llm.v1.usage.openai.acme", b"{}", {}))

    async with consumer():
        await until_booked(connection)
        (letter,) = await dead_letters(connection)

    assert letter.headers[MSG_ID] == f"{streams.USAGE}:1"
