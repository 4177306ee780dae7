"""Waiting for JetStream's answers: each goes to its message, and none is waited for too long."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from runtime.broker import Broker
from runtime.jetstream.pub_acks import PubAcks

SUBJECT = "llm.v1.usage.mock.acme"


@dataclass(slots=True)
class Server:
    """Stands for nats-py's client and the server behind it."""

    subscriptions: list[str] = field(default_factory=list[str])
    published: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])
    """Where the answer to each message is waited for."""
    refuses_subscriptions: int = 0
    _deliver: Callable[[Msg], Awaitable[None]] | None = None

    def new_inbox(self) -> str:
        return "_INBOX_x.1"

    async def subscribe(self, subject: str, *, cb: Callable[[Msg], Awaitable[None]]) -> None:
        await asyncio.sleep(0)
        if self.refuses_subscriptions:
            self.refuses_subscriptions -= 1
            raise nats.errors.ConnectionClosedError
        self.subscriptions.append(subject)
        self._deliver = cb

    async def publish(self, subject: str, payload: bytes, *, reply: str, headers: dict[str, str]) -> None:
        self.published.put_nowait(reply)

    async def answer(self, reply: str, told: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = told if isinstance(told, bytes) else json.dumps(told).encode()
        assert self._deliver is not None
        await self._deliver(Msg(cast("Nats", self), subject=reply, data=data, headers=headers))

    def acks(self, *, within_s: float = 60) -> PubAcks:
        return PubAcks(Broker(cast("Nats", self)), within_s=within_s)


async def test_gives_each_message_its_own_answer() -> None:
    server = Server()
    acks = server.acks()
    publishing = [asyncio.create_task(acks.publish(SUBJECT, b"", {})) for _ in range(3)]
    replies = [await server.published.get() for _ in publishing]

    for number, reply in reversed([*enumerate(replies, 1)]):
        await server.answer(reply, {"stream": "S", "seq": number, "duplicate": True})

    assert await asyncio.gather(*publishing) == [1, 2, 3]


async def test_listens_at_one_inbox_for_all() -> None:
    server = Server()
    acks = server.acks()
    publishing = [asyncio.create_task(acks.publish(SUBJECT, b"", {})) for _ in range(3)]
    for _ in publishing:
        await server.answer(await server.published.get(), {"stream": "S", "seq": 1})
    await asyncio.gather(*publishing)

    assert server.subscriptions == ["_INBOX_x.1.*"]


async def test_listens_again_when_it_could_not() -> None:
    server = Server(refuses_subscriptions=1)
    acks = server.acks()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await acks.publish(SUBJECT, b"", {})

    publishing = asyncio.create_task(acks.publish(SUBJECT, b"", {}))
    await server.answer(await server.published.get(), {"stream": "S", "seq": 7})

    assert await publishing == 7


@pytest.mark.parametrize(
    ("told", "headers", "raised"),
    [
        (b"", {"Status": "503"}, nats.js.errors.NoStreamResponseError),
        ({"error": {"code": 503, "err_code": 10077, "description": "x"}}, None, nats.js.errors.ServiceUnavailableError),
        ({"error": {"code": 400, "err_code": 10071, "description": "x"}}, None, nats.js.errors.BadRequestError),
    ],
)
async def test_tells_why_a_message_is_not_stored(
    told: Any, headers: dict[str, str] | None, raised: type[Exception]
) -> None:
    server = Server()
    publishing = asyncio.create_task(server.acks().publish(SUBJECT, b"", {}))

    await server.answer(await server.published.get(), told, headers)

    with pytest.raises(raised):
        await publishing


async def test_gives_up_what_is_not_answered_and_nothing_else() -> None:
    server = Server()
    acks = server.acks(within_s=0.05)
    silent = asyncio.create_task(acks.publish(SUBJECT, b"", {}))
    late = await server.published.get()
    with pytest.raises(nats.errors.TimeoutError):
        await silent

    publishing = asyncio.create_task(acks.publish(SUBJECT, b"", {}))
    reply = await server.published.get()
    await server.answer(late, {"stream": "S", "seq": 1})
    await server.answer(reply, {"stream": "S", "seq": 2})

    assert await publishing == 2


async def test_gives_up_each_message_in_its_turn() -> None:
    server = Server()
    acks = server.acks(within_s=0.05)

    outcomes = await asyncio.gather(
        acks.publish(SUBJECT, b"", {}), acks.publish(SUBJECT, b"", {}), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [nats.errors.TimeoutError] * 2

    with pytest.raises(nats.errors.TimeoutError):  # after the timer of those before it
        await acks.publish(SUBJECT, b"", {})
