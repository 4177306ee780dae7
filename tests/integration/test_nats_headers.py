"""Headers that an agent may set and a worker must not take for the server's, written as bytes on a connection."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest
from nats.aio.msg import Msg

from contracts import subjects
from contracts.control import HANDOVER, MSG_ID
from contracts.events import Cancelled, Completed, Failed, Terminal, parse
from contracts.subjects import Priority
from fleet.client import Client
from tests.kit import Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault

PLAIN = "NATS/1.0"
HEADERS = [
    f"{PLAIN}\r\nStatus: 100",
    f"{PLAIN}\r\nStatus: 408\r\nNats-Pending-Messages: 1000000",
    f"{PLAIN}\r\nStatus: 409\r\nNats-Pending-Messages: many",
    f"{PLAIN}\r\nStatus: 503",
    f"{PLAIN} 100 Idle Heartbeat",
    f"{PLAIN} 100 FlowControl Request",
    f"{PLAIN} 404 No Messages\r\nNats-Pending-Messages: 5",
    f"{PLAIN} 409",
    f"{PLAIN} \xff\xfe\xfd",
    f"{PLAIN} 200 \xff",
    f"{PLAIN}\r\n\xff\xfe: \xff",
    f"{PLAIN}\r\n: nameless\r\nno colon\r\n a b : c",
    f"{PLAIN}\r\n" + "\r\n".join(f"X-{number}: {'x' * 100}" for number in range(1000)),
    f"{PLAIN}\r\nX: {'x' * 500_000}",
    f"{PLAIN}\r\n{MSG_ID}: ",
    f"{PLAIN}\r\n{MSG_ID}: replay:",
    f"{PLAIN}\r\n{MSG_ID}: dead:1",
    f"{PLAIN}\r\n{MSG_ID}: {'m' * 10_000}",
    f"{PLAIN}\r\nNats-TTL: never",
    f"{PLAIN}\r\nNats-TTL: -1",
    f"{PLAIN}\r\nNats-Rollup: all",
    f"{PLAIN}\r\nNats-Incr: +1",
    f"{PLAIN}\r\nNats-Schedule: @every 1s\r\nNats-Schedule-Target: llm.v1.usage.mock.acme",
    f"{PLAIN}\r\nNats-Batch-Id: b\r\nNats-Batch-Sequence: 1",
    f"{PLAIN}\r\nNats-Expected-Stream: LLM_USAGE",
    f"{PLAIN}\r\nNats-Expected-Last-Sequence: -1",
    f"{PLAIN}\r\nNats-Expected-Last-Subject-Sequence: 0",
    f"{PLAIN}\r\nNats-Expected-Last-Subject-Sequence: 0\r\nNats-Expected-Last-Subject-Sequence-Subject: llm.>",
    f"{PLAIN}\r\nNats-Expected-Last-Msg-Id: r1",
    f"{PLAIN}\r\nNats-Required-Api-Level: 999",
    f"{PLAIN}\r\nNats-Msg-Size: -1\r\nKV-Operation: PURGE",
    f"{PLAIN}\r\nFleet-Dead-Code: internal\r\nFleet-Dead-Truncated: true",
    f"{PLAIN}\r\nX: {'x' * 63_000}",
    f"{PLAIN}\r\nNats-Stream: LLM_USAGE\r\nNats-Sequence: x\r\nNats-Subject: >",
    f"{PLAIN}\r\ntraceparent: \x00\r\ntracestate: {'t' * 5000}",
    f"{PLAIN}\r\n{HANDOVER}: ",
    f"{PLAIN}\r\n{HANDOVER}: {'[' * 10_000}",
    f"{PLAIN}\r\n{HANDOVER}: " + json.dumps({"model": "mock/echo", "queued_at": "9999-12-31T23:59:59Z"}),
    f"{PLAIN}\r\n{HANDOVER}: " + json.dumps({"model": "mock/echo", "queued_at": "0001-01-01T00:00:00Z"}),
    f"{PLAIN}\r\n{HANDOVER}: " + json.dumps({"model": "mock/echo", "queued_at": "0001-01-01T00:00:00+14:00"}),
    f"{PLAIN}\r\n{HANDOVER}: " + json.dumps({"model": "no slash", "queued_at": "2026-11-23T12:00:00Z"}),
    f"{PLAIN}\r\n{HANDOVER}: " + json.dumps({"model": "../../x/y", "queued_at": "2126-11-23T12:00:00Z"}),
    f"{PLAIN}\r\n{HANDOVER}: " + json.dumps({"model": "a.b/c", "queued_at": "2126-11-23T12:00:00Z"}),
    f"{PLAIN}\r\n{HANDOVER}: "
    + json.dumps({"model": "mock/echo", "queued_at": "2126-11-23T12:00:00Z", "attempt": 1000, "hops": 64}),
    f"{PLAIN}\r\n{HANDOVER}: "
    + json.dumps({"model": "mock/echo", "queued_at": "2126-11-23T12:00:00Z", "proof": "v1:nothing"}),
]


class Wire:
    """A NATS connection without a client, which would not write what we want to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncGenerator["Wire"]:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        await reader.readline()
        writer.write(b'CONNECT {"headers": true, "verbose": false, "pedantic": false}\r\n')
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def publish(self, subject: str, head: str, body: bytes, *, reply: str = "") -> bool:
        """Whether the server took it."""
        block = head.encode("latin-1") + b"\r\n\r\n"
        self._writer.write(f"HPUB {subject} {reply} {len(block)} {len(block) + len(body)}\r\n".encode())
        self._writer.write(block + body + b"\r\nPING\r\n")
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self._reader.readline()) and line.strip() != b"PONG":
                if line.startswith(b"-ERR"):
                    return False
        return bool(line)


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


async def stored_as(control: Plane, subject: str, head: str, body: bytes, url: str) -> bool:
    """Whether JetStream keeps it."""
    inbox = control.client.new_inbox()
    answers = await control.client.subscribe(inbox)
    await control.client.flush()
    async with Wire.connected(url) as wire:
        if not await wire.publish(subject, head, body, reply=inbox):
            return False
    answer = json.loads((await answers.next_msg(timeout=30)).data)
    return "error" not in answer and not answer.get("duplicate")


def request(tenant: str, **fields: object) -> bytes:
    usual = {"tenant": tenant, "agent": "raw", "model": "mock/echo", "messages": [{"role": "user", "content": "Hi"}]}
    return json.dumps({**usual, **fields}).encode()


async def endings(control: Plane) -> dict[str, Terminal]:
    """How the requests of the agent `raw` end, as they do."""
    ended: dict[str, Terminal] = {}

    async def note(msg: Msg) -> None:
        event = parse(msg.data)
        if isinstance(event, Terminal):
            ended[event.request_id] = event

    await control.client.subscribe(subjects.replies_of_agent(control.tenant, "raw"), cb=note)
    await control.client.flush()
    return ended


async def test_every_request_ends_whatever_its_headers(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    await stack.enter_async_context(worker(worker_settings(nats_url, vault)))
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.put_tenant()
    await control.put_provider("mock")
    client = await stack.enter_async_context(Client(nats_url, tenant=tenant))
    ended = await endings(control)
    subject = subjects.request("mock", Priority.INTERACTIVE, tenant)

    kept = [
        str(number)
        for number, head in enumerate(HEADERS)
        if await stored_as(control, subject, head, request(tenant, id=str(number)), nats_url)
    ]
    await until(lambda: ended.keys() == set(kept))

    assert len(kept) > len(HEADERS) / 2
    assert (await client.complete("mock/echo", "Hi")).finish_reason == "stop"
    for ending in ended.values():
        assert not isinstance(ending, Failed) or ending.error.code != "internal"


@pytest.mark.parametrize(
    "head",
    [
        f"{PLAIN}\r\nStatus: 503",
        f"{PLAIN}\r\nStatus: 204\r\nNats-Num-Pending: 0",
        f"{PLAIN} 204 EOB\r\nNats-Num-Pending: 0",
        f"{PLAIN}\r\nNats-Stream: x\r\nNats-Sequence: 9999999",
        f"{PLAIN} \xff\xfe\xfd",
        f"{PLAIN} 200 \xff",
        f"{PLAIN}\r\nNats-Subject: llm.v1.control.{{victim}}.cancel",
        f"{PLAIN}\r\nNats-Rollup: all",
    ],
)
async def test_a_stored_cancel_speaks_for_its_tenant_only(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str, head: str
) -> None:
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.make_streams()
    await control.put_tenant()
    await control.put_provider("mock")
    ended = await endings(control)
    jetstream = control.client.jetstream()
    for id in ("wanted", "unwanted"):  # noqa: A001
        await jetstream.publish(subjects.request("mock", Priority.INTERACTIVE, tenant), request(tenant, id=id))
    wire = await stack.enter_async_context(Wire.connected(nats_url))
    hostile = head.format(victim=tenant)
    await wire.publish(subjects.cancel("mallory"), hostile, b'{"request_id": "unwanted"}')
    await wire.publish(subjects.cancel(tenant), PLAIN, b'{"request_id": "wanted"}')

    async with worker(worker_settings(nats_url, vault)):
        await until(lambda: len(ended) == 2)

    assert isinstance(ended["wanted"], Cancelled)
    assert isinstance(ended["unwanted"], Completed)
