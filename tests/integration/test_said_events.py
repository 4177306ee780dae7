"""What is published without waiting: in which order it arrives, and what happens without a connection."""

import asyncio
import os
import signal

import pytest
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, OutboundBufferLimitError

from fleet.local.servers import NatsServer
from runtime.broker import Broker
from tests.kit import connected
from tests.patience import until

SUBJECT = "llm.v1.reply.acme.tester.r1"


async def heard(broker: Broker) -> list[tuple[bytes, dict[str, str]]]:
    """What is published from now on, with its headers."""
    found: list[tuple[bytes, dict[str, str]]] = []

    async def note(message: Msg) -> None:
        found.append((message.data, dict(message.headers or {})))

    await broker.client.subscribe(SUBJECT, cb=note)
    await broker.client.flush()
    return found


async def test_what_is_said_and_what_is_awaited_arrive_in_the_order_in_which_they_were_published(nats_url: str) -> None:
    async with connected(nats_url) as broker, connected(nats_url) as agent:
        arrived = await heard(agent)
        for number in range(0, 60, 3):
            broker.say(SUBJECT, b"%d" % number)
            await broker.client.publish(SUBJECT, b"%d" % (number + 1))
            broker.say(SUBJECT, b"%d" % (number + 2), header=b"NATS/1.0\r\nA: b\r\n\r\n")
        await until(lambda: len(arrived) == 60)
    assert [data for data, _ in arrived] == [b"%d" % number for number in range(60)]
    assert [headers for _, headers in arrived[:3]] == [{}, {}, {"A": "b"}]


async def test_what_is_said_without_a_connection_arrives_after_the_next_one(nats: NatsServer) -> None:
    async with connected(nats.url) as broker:
        arrived = await heard(broker)
        await nats.kill()
        await until(lambda: not broker.connected)
        broker.say(SUBJECT, b"said meanwhile")
        assert broker.backlog() is None
        with pytest.raises(OutboundBufferLimitError):
            broker.say(SUBJECT, b"x" * 65 * 1024**2)
        await nats.start()
        await until(lambda: bool(arrived))
    assert arrived == [(b"said meanwhile", {})]


async def test_nothing_is_said_on_a_connection_that_is_closed_for_good(nats_url: str) -> None:
    async with connected(nats_url) as broker:
        pass
    with pytest.raises(ConnectionClosedError):
        broker.say(SUBJECT, b"late")


async def test_a_server_that_takes_nothing_is_waited_for(nats: NatsServer) -> None:
    async with connected(nats.url) as broker:
        assert nats.process is not None
        pid = nats.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            waited_for = None
            for _ in range(64):
                broker.say(SUBJECT, b"x" * 1024**2)
                await asyncio.sleep(0)
                if (waited_for := broker.backlog()) is not None:
                    break
            assert waited_for is not None
            waiting = asyncio.ensure_future(waited_for)
            await asyncio.sleep(0)
            assert not waiting.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        await waiting
        assert broker.backlog() is None
