"""Waiting for answers: each goes to its question, and none is waited for too long."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import nats.errors
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from runtime.broker import Broker
from runtime.jetstream.answers import Answers
from runtime.jetstream.publishing import NotStored, Outrun, Publisher, TooLarge

SUBJECT = "llm.v1.usage.mock.acme"


@dataclass(slots=True)
class Server:
    """Stands for nats-py's client and the server behind it."""

    max_payload = 1024
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

    async def answer(self, reply: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        assert self._deliver is not None
        await self._deliver(Msg(cast("Nats", self), subject=reply, data=data, headers=headers))

    @property
    def broker(self) -> Broker:
        return Broker(cast("Nats", self))

    def answers(self, *, within_s: float = 60) -> Answers:
        return Answers(self.broker, within_s=within_s)


async def test_gives_each_question_its_own_answer() -> None:
    server = Server()
    answers = server.answers()
    asking = [asyncio.create_task(answers.ask(SUBJECT, b"", {})) for _ in range(3)]
    replies = [await server.published.get() for _ in asking]

    for number, reply in reversed([*enumerate(replies)]):
        await server.answer(reply, b"%d" % number)

    assert await asyncio.gather(*asking) == [b"0", b"1", b"2"]


async def test_listens_at_one_inbox_for_all() -> None:
    server = Server()
    answers = server.answers()
    asking = [asyncio.create_task(answers.ask(SUBJECT, b"", {})) for _ in range(3)]
    for _ in asking:
        await server.answer(await server.published.get(), b"1")
    await asyncio.gather(*asking)

    assert server.subscriptions == ["_INBOX_x.1.*"]


async def test_listens_again_when_it_could_not() -> None:
    server = Server(refuses_subscriptions=1)
    answers = server.answers()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await answers.ask(SUBJECT, b"", {})

    asking = asyncio.create_task(answers.ask(SUBJECT, b"", {}))
    await server.answer(await server.published.get(), b"7")

    assert await asking == b"7"


async def test_says_that_nobody_answers() -> None:
    server = Server()
    asking = asyncio.create_task(server.answers().ask(SUBJECT, b"", {}))

    await server.answer(await server.published.get(), b"", {"Status": "503"})

    with pytest.raises(nats.errors.NoRespondersError):
        await asking


async def test_gives_up_what_is_not_answered_and_nothing_else() -> None:
    server = Server()
    answers = server.answers(within_s=0.05)
    silent = asyncio.create_task(answers.ask(SUBJECT, b"", {}))
    late = await server.published.get()
    with pytest.raises(nats.errors.TimeoutError):
        await silent

    asking = asyncio.create_task(answers.ask(SUBJECT, b"", {}))
    reply = await server.published.get()
    await server.answer(late, b"1")
    await server.answer(reply, b"2")

    assert await asking == b"2"


async def test_gives_up_each_question_in_its_turn() -> None:
    server = Server()
    answers = server.answers(within_s=0.05)

    outcomes = await asyncio.gather(*(answers.ask(SUBJECT, b"", {}) for _ in range(2)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [nats.errors.TimeoutError] * 2

    with pytest.raises(nats.errors.TimeoutError):  # after the timer of those before it
        await answers.ask(SUBJECT, b"", {})


async def test_a_message_is_stored_at_its_sequence() -> None:
    server = Server()
    publishing = asyncio.create_task(Publisher(server.broker).durable(SUBJECT, b"{}", msg_id="m1"))

    await server.answer(await server.published.get(), b'{"stream":"LLM_USAGE","seq":41,"duplicate":true}')

    assert await publishing == 41


@pytest.mark.parametrize(("err_code", "raised"), [(10071, Outrun), (10054, TooLarge), (10052, NotStored)])
async def test_says_why_a_message_is_not_stored(err_code: int, raised: type[Exception]) -> None:
    server = Server()
    publishing = asyncio.create_task(Publisher(server.broker).durable(SUBJECT, b"{}", msg_id="m1", expected_last=1))

    error = {"code": 400, "err_code": err_code, "description": "why"}
    await server.answer(await server.published.get(), json.dumps({"error": error}).encode())

    with pytest.raises(raised):
        await publishing
