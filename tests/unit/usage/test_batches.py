"""Batches of a consumer's messages, from a server that says what a test wants."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import nats.errors
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from tests.driven_clock import DrivenClock
from workers.usage.batches import Batches

SIZE = 3
COLLECT_S = 0.25
GRACE_S = 2.0

Pulled = AsyncGenerator[list[Msg]]


class Server:
    """Stands for the connection. Whenever something is asked, the next of `answers` is what comes."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[Callable[[], Awaitable[None]]] = []
        self.is_closed = False
        self.is_connected = True
        self._receive: Callable[[Msg], Awaitable[None]] | None = None

    def new_inbox(self) -> str:
        return "_INBOX.1"

    async def subscribe(self, inbox: str, cb: Callable[[Msg], Awaitable[None]]) -> "Server":
        self._receive = cb
        return self

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        self.asked.append(json.loads(payload))
        if self.answers:
            await self.answers.pop(0)()

    async def send(self, *bodies: bytes) -> None:
        for body in bodies:
            await self._deliver(Msg(cast(Nats, self), subject="s", reply="$JS.ACK.x", data=body))

    async def say(self, status: str, *, pending: int) -> None:
        headers = {"Status": status, "Description": "so it is", "Nats-Pending-Messages": str(pending)}
        await self._deliver(Msg(cast(Nats, self), subject="s", reply="", data=b"", headers=headers))

    async def _deliver(self, message: Msg) -> None:
        assert self._receive is not None
        await self._receive(message)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
async def batches(server: Server, clock: DrivenClock) -> Batches:
    opened = Batches(
        cast(Nats, server),
        stream="LLM_USAGE",
        consumer="usage",
        size=SIZE,
        collect_s=COLLECT_S,
        clock=clock,
        grace_s=GRACE_S,
    )
    await opened.open()
    return opened


async def bodies(pulled: Pulled) -> list[bytes]:
    return [message.data for message in await anext(pulled)]


async def test_a_full_batch_is_handed_over_and_the_next_one_is_asked_for_meanwhile(
    server: Server, batches: Batches
) -> None:
    server.answers.append(lambda: server.send(b"1", b"2", b"3"))

    assert await bodies(batches.pulled()) == [b"1", b"2", b"3"]

    assert [(question["batch"], question["expires"]) for question in server.asked] == [(SIZE, 250_000_000)] * 2


async def test_what_came_of_a_batch_is_handed_over_when_there_is_no_more(server: Server, batches: Batches) -> None:
    async def some() -> None:
        await server.send(b"1")
        await server.say("408", pending=SIZE - 1)

    server.answers.append(some)

    assert await bodies(batches.pulled()) == [b"1"]
    assert len(server.asked) == 1


async def test_an_empty_pull_is_followed_by_the_next_one(server: Server, batches: Batches) -> None:
    server.answers += [lambda: server.say("408", pending=SIZE), lambda: server.send(b"1", b"2", b"3")]

    assert await bodies(batches.pulled()) == [b"1", b"2", b"3"]


async def test_more_than_a_batch_is_kept_for_the_next_one(server: Server, batches: Batches) -> None:
    """A pull that was given up may still bring something."""
    server.answers += [lambda: server.send(b"1", b"2", b"3", b"4"), lambda: server.send(b"5", b"6", b"7")]
    pulled = batches.pulled()

    assert await bodies(pulled) == [b"1", b"2", b"3"]
    assert await bodies(pulled) == [b"4"]
    assert await bodies(pulled) == [b"5", b"6", b"7"]


@pytest.mark.parametrize("sign", ["409", "503"])
async def test_a_server_that_refuses_is_asked_again_after_a_pause(
    server: Server, batches: Batches, clock: DrivenClock, caplog: pytest.LogCaptureFixture, sign: str
) -> None:
    server.answers += [lambda: server.say(sign, pending=SIZE), lambda: server.send(b"1", b"2", b"3")]
    began = clock.monotonic()

    assert await bodies(batches.pulled()) == [b"1", b"2", b"3"]

    assert clock.monotonic() - began == GRACE_S
    (line,) = caplog.records
    assert (line.getMessage(), vars(line)["reason"]) == ("pull_refused", f"{sign} so it is")


async def test_a_connection_that_takes_nothing_is_tried_again_after_a_pause(
    server: Server, batches: Batches, clock: DrivenClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise nats.errors.OutboundBufferLimitError

    server.answers += [fail, lambda: server.send(b"1", b"2", b"3")]
    began = clock.monotonic()

    assert await bodies(batches.pulled()) == [b"1", b"2", b"3"]

    assert clock.monotonic() - began == GRACE_S
    assert vars(caplog.records[0])["reason"] == "OutboundBufferLimitError"


async def test_nothing_is_asked_while_the_connection_is_down(
    server: Server, batches: Batches, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = 0

    async def sleep(delay_s: float) -> None:
        nonlocal pauses
        pauses += 1
        server.is_connected = pauses == 5

    monkeypatch.setattr(clock, "sleep", sleep)
    server.is_connected = False
    server.answers.append(lambda: server.send(b"1", b"2", b"3"))

    assert await bodies(batches.pulled()) == [b"1", b"2", b"3"]
    assert pauses == 5


async def test_a_stopped_puller_hands_over_what_it_asked_for_and_ends(server: Server, batches: Batches) -> None:
    server.answers.append(lambda: server.send(b"1", b"2", b"3"))
    pulled = batches.pulled()
    await anext(pulled)  # the next batch is asked for by now
    batches.stop()
    await server.send(b"4")
    await server.say("408", pending=SIZE - 1)

    assert await bodies(pulled) == [b"4"]
    with pytest.raises(StopAsyncIteration):
        await anext(pulled)
    assert len(server.asked) == 2


async def test_a_puller_that_is_stopped_before_it_asked_asks_for_nothing(server: Server, batches: Batches) -> None:
    batches.stop()

    assert [batch async for batch in batches.pulled()] == []
    assert server.asked == []


async def test_what_a_silent_server_was_asked_is_given_up(server: Server, clock: DrivenClock) -> None:
    batches = Batches(cast(Nats, server), stream="s", consumer="c", size=SIZE, collect_s=0.0, clock=clock, grace_s=0.0)
    await batches.open()
    server.answers += [lambda: asyncio.sleep(0), lambda: server.send(b"1", b"2", b"3")]

    assert await bodies(batches.pulled()) == [b"1", b"2", b"3"]
