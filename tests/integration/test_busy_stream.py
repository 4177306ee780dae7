"""A stream to which more is published than it stores: NATS refuses the rest, and whoever asks again finds room."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from nats.aio.msg import Msg

from contracts import jetstream_codes, streams, subjects
from contracts.subjects import Priority
from fleet.client import Client
from fleet.local.servers import NatsServer
from runtime import broker
from runtime.jetstream.publishing import Publisher
from runtime.settings import BrokerSettings
from tests.ports import free_port

REFUSED = {
    "type": "io.nats.jetstream.api.v1.pub_ack_response",
    "error": {"code": 429, "err_code": jetstream_codes.TOO_MANY_REQUESTS, "description": "too many requests"},
}
"""What nats-server 2.15 answers when 10,000 messages wait to be stored."""
STORED = {"stream": streams.REQUESTS, "seq": 1}


@asynccontextmanager
async def busy_server(folder: Path, *, refusals: int) -> AsyncGenerator[str]:
    """The address of a server without streams: in place of `LLM_REQUESTS` a client answers, because a real flood has
    the others refused by luck only. Each subject is refused so often."""
    server, seen = NatsServer(folder / "nats", port=free_port(), accounts=""), dict[str, int]()
    await server.start()
    settings = BrokerSettings(nats_url=server.url)

    async def answer(msg: Msg) -> None:
        seen[msg.subject] = seen.get(msg.subject, 0) + 1
        await msg.respond(json.dumps(REFUSED if seen[msg.subject] <= refusals else STORED).encode())

    try:
        async with broker.connect(settings, name="busy", inbox_prefix="_INBOX") as connection:
            await connection.client.subscribe(f"{subjects.VERSION}.request.>", cb=answer)
            await connection.client.flush()
            yield server.url
    finally:
        await server.kill()


async def test_a_request_is_published_again(tmp_path: Path) -> None:
    async with (
        busy_server(tmp_path, refusals=15) as url,
        Client(url, tenant="acme") as client,
        client.stream("mock/echo", "Hello") as stream,
    ):
        assert stream.request_id


async def test_what_must_not_be_lost_is_published_again(tmp_path: Path) -> None:
    async with busy_server(tmp_path, refusals=3) as url:
        settings = BrokerSettings(nats_url=url)
        async with broker.connect(settings, name="publisher", inbox_prefix="_INBOX") as connection:
            subject = subjects.request("mock", Priority.BACKGROUND, "acme")
            assert await Publisher(connection).durable(subject, b"{}", msg_id="m") == STORED["seq"]
