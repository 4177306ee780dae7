"""How the end of what is stored is told from what somebody has stored."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import nats.errors
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from runtime.broker import Broker, BrokerConnection
from runtime.jetstream import direct_get

OF_THE_SERVER = (
    b"Nats-Stream: S\r\nNats-Subject: s\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-01-01T00:00:00Z\r\n"
    b"Nats-Num-Pending: 0\r\nNats-Last-Sequence: 0\r\n\r\n"
)
END = b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 7\r\n\r\n"
NOBODY = b"NATS/1.0 503\r\n\r\n"


class Server:
    """Answers each question with messages of these headers."""

    def __init__(self, *answers: bytes) -> None:
        self.client = self
        self._answers = answers
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._to: Callable[[Msg], Awaitable[None]] = self._queue.put

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, inbox: str, cb: Callable[[Msg], Awaitable[None]] | None = None) -> "Server":
        self._to = cb or self._to
        return self

    async def publish(self, subject: str, payload: bytes, *, reply: str) -> None:
        for raw in self._answers:
            headers = await BrokerConnection(by_tls=False)._process_headers(raw)  # pyright: ignore[reportPrivateUsage]
            await self._to(Msg(cast(Nats, self), subject=reply, headers=headers))

    async def next_msg(self, timeout: float) -> Msg:
        return self._queue.get_nowait()

    async def unsubscribe(self) -> None:
        return


async def all_of(*answers: bytes) -> list[Any]:
    broker = cast(Broker, Server(*answers))
    read = [message async for message in direct_get.messages(broker, stream="S", subject="s")]
    sampled = await direct_get.samples(
        cast(Broker, Server(*answers)), stream="S", subject="s", first_seq=1, count=4, max_bytes=1000
    )
    assert [sample.sequence for sample in sampled] == [message.sequence for message in read]
    return sampled


@pytest.mark.parametrize(
    "of_its_sender",
    [b"", b"Status: 204\r\n", b"Status: 503\r\n", b"no end", b"Nats-Num-Pending: 5\r\n", b"k: v\r\n" * 1000],
)
async def test_no_header_of_a_stored_message_passes_for_the_end(of_its_sender: bytes) -> None:
    stored = b"NATS/1.0\r\n" + of_its_sender + OF_THE_SERVER

    assert [sample.sequence for sample in await all_of(stored, stored, END)] == [7, 7]


async def test_of_a_stored_message_all_bytes_count() -> None:
    stored = b"NATS/1.0\r\n" + b"k: v\r\n" * 1000 + OF_THE_SERVER

    assert [sample.size for sample in await all_of(stored, END)] == [len(stored)]


@pytest.mark.parametrize("before", [[], [b"NATS/1.0\r\n" + OF_THE_SERVER]])
async def test_a_stream_that_nobody_serves_is_not_taken_for_an_empty_one(before: list[bytes]) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        await all_of(*before, NOBODY)
    server = cast(Broker, Server(*before, NOBODY))
    with pytest.raises(nats.errors.NoRespondersError):
        await direct_get.samples(server, stream="S", subject="s", first_seq=1, count=4, max_bytes=1000)
