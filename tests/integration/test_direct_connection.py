"""The client's connection, which takes messages where it reads them, and asks JetStream itself for confirmations."""

import asyncio
import inspect
from collections.abc import AsyncGenerator

import pytest
from nats.aio.client import Client as Nats
from nats.js.errors import APIError, NoStreamResponseError

from contracts.control import EXPECTED_SUBJECT_SEQUENCE, MSG_ID
from contracts.nats_connect import connect_to_any
from fleet.direct_connection import DirectConnection
from tests.patience import until


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
async def connection(nats_url: str, errors: list[Exception]) -> AsyncGenerator[DirectConnection]:
    async def on_error(exc: Exception) -> None:
        errors.append(exc)

    async def prepare(connection: DirectConnection) -> None:
        await connection.listen_for_acks()

    connection = await connect_to_any(DirectConnection, [nats_url], error_cb=on_error, prepare=prepare)
    async with connection:
        yield connection


async def test_takes_messages_in_order_and_passes_on_what_taking_raises(
    connection: DirectConnection, errors: list[Exception], tenant: str
) -> None:
    taken: list[tuple[bytes, bytes]] = []

    def take(subject: bytes, data: bytes) -> None:
        if data == b"bad":
            raise LookupError("bad")
        taken.append((subject, data))

    await connection.listen(f"test.{tenant}.*", take)
    for number, said in enumerate([b"a", b"bad", b"b", b"x" * 100_000]):
        await connection.publish(f"test.{tenant}.{number}", said, headers={"Nats-Expected-Stream": "none"})
    await connection.publish(f"test.{tenant}.4", b"last")
    await until(lambda: len(taken) == 4)

    assert [data for _, data in taken] == [b"a", b"b", b"x" * 100_000, b"last"]
    assert taken[0][0] == f"test.{tenant}.0".encode()
    assert [type(error) for error in errors] == [LookupError]
    assert connection.stats["in_msgs"] == 5


def test_nats_py_gives_its_messages_where_they_are_taken() -> None:
    """Otherwise they go through its queue, as they do for everybody else, and cost what they cost there."""
    given = inspect.signature(Nats._process_msg)  # pyright: ignore[reportPrivateUsage]
    taken = inspect.signature(DirectConnection._process_msg)  # pyright: ignore[reportPrivateUsage]

    assert list(given.parameters) == list(taken.parameters)


async def test_a_message_is_confirmed_or_refused(connection: DirectConnection, tenant: str) -> None:
    jetstream, subject = connection.jetstream(), f"stored.{tenant}"
    await jetstream.add_stream(name=tenant, subjects=[subject])
    try:
        first = await (await connection.publish_to_stream(subject, b"1", headers={MSG_ID: "m"}))
        again = await (await connection.publish_to_stream(subject, b"1", headers={MSG_ID: "m"}))
        with pytest.raises(APIError, match="wrong last sequence"):
            await (await connection.publish_to_stream(subject, b"2", headers={EXPECTED_SUBJECT_SEQUENCE: "7"}))
    finally:
        await jetstream.delete_stream(tenant)

    assert (first.seq, first.duplicate) == (1, None)
    assert (again.seq, again.duplicate) == (1, True)


async def test_a_subject_that_no_stream_takes_is_told(connection: DirectConnection, tenant: str) -> None:
    with pytest.raises(NoStreamResponseError):
        await (await connection.publish_to_stream(f"nowhere.{tenant}", b"1", headers={MSG_ID: "m"}))


async def test_an_answer_that_nobody_waits_for_disturbs_nobody(
    connection: DirectConnection, errors: list[Exception], tenant: str
) -> None:
    given_up, waited_for = [
        await connection.publish_to_stream(f"nowhere.{tenant}", b"1", headers={MSG_ID: "m"}) for _ in range(2)
    ]
    given_up.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(NoStreamResponseError):
            await waited_for

    assert errors == []
