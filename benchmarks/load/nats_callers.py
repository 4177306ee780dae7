"""Callers of the fleet: each is an agent with a connection to NATS of its own, as callers over HTTP have.

The client is made for this load, so that what it costs does not bound what is measured. A reply counts when every event
is there and in order, of one attempt, with exactly one that ends it, and when the tokens and the usage are right.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from benchmarks.load.callers import Reply, Tally, go_on, now
from contracts import subjects
from contracts.subjects import Priority

_TOKEN = re.compile(rb"tok\d+")
_SEQ = re.compile(rb'"seq":(\d+)')
_DELTA = b'"type":"delta"'
_ENDS = re.compile(rb'"type":"(?:completed|failed|cancelled)"')
_ACKS = b"2"
"""The second of the two subscriptions of a caller; the first one is for replies."""


@dataclass(frozen=True, slots=True)
class Login:
    """As whom a tenant's agents connect."""

    url: str
    tenant: str
    user: str
    password: str


class NatsCaller(asyncio.Protocol):
    """A `Caller`; `connect` before it begins."""

    def __init__(self, tally: Tally, login: Login, agent: str) -> None:
        load, tenant = tally.load, login.tenant
        self._tally = tally
        self._login = login
        self._agent = agent
        self._inbox = f"{subjects.inbox_prefix(tenant)}.{secrets.token_hex(6)}"
        self._replies = subjects.replies_of_agent(tenant, agent)
        self._subject = subjects.request(load.provider, Priority.INTERACTIVE, tenant)
        body = load.body() | {"tenant": tenant, "agent": agent, "model": f"{load.provider}/{load.script.model}"}
        self._body = json.dumps({**body, **load.fields})[1:]
        self._expected = load.tokens()
        self._loop = asyncio.get_running_loop()
        self._is_ready = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._tail = b""
        self._number = 0
        self._id = b""
        self._reply: Reply | None = None
        self._events: list[bytes] = []

    async def connect(self) -> None:
        """Returns when the server has taken the subscriptions."""
        server = urlsplit(self._login.url)
        assert server.hostname
        assert server.port
        await self._loop.create_connection(lambda: self, server.hostname, server.port)
        await self._is_ready

    def begin(self) -> None:
        if not self._tally.running:
            return
        assert self._transport
        self._number += 1
        name = f"{self._agent}-{self._number}"
        self._id, self._reply, self._events = name.encode(), Reply(self._tally), []
        head = f"NATS/1.0\r\nNats-Msg-Id: {name}\r\nNats-TTL: 660\r\n\r\n"
        message = f'{head}{{"id": "{name}", {self._body}'
        self._transport.write(
            f"HPUB {self._subject} {self._inbox}.{self._number} {len(head)} {len(message)}\r\n{message}\r\n".encode()
        )

    def close(self) -> None:
        if self._transport:
            self._transport.abort()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport:
            self._tally.wrong("the connection to NATS was closed")

    def data_received(self, data: bytes) -> None:
        """The protocol of NATS, as far as a server speaks it to a client that only publishes and subscribes."""
        at, begins = now(), 0
        data = self._tail + data
        while (end := data.find(b"\r\n", begins)) >= 0:
            line = data[begins:end]
            if not line.startswith((b"MSG ", b"HMSG ")):
                self._said(line)
                begins = end + 2
                continue
            words = line.split(b" ")
            stop = end + 2 + int(words[-1])
            if stop + 2 > len(data):
                break
            head = int(words[-2]) if line.startswith(b"H") else 0
            self._message(words[1], words[2], data[end + 2 + head : stop], at)
            begins = stop + 2
        self._tail = data[begins:]

    def _said(self, line: bytes) -> None:
        assert self._transport
        if line == b"PING":
            self._transport.write(b"PONG\r\n")
        elif line == b"PONG" and not self._is_ready.done():
            self._is_ready.set_result(None)
        elif line.startswith(b"INFO") and not self._is_ready.done():
            self._transport.write(self._hello())
        elif line.startswith(b"-ERR"):
            self._tally.wrong(f"NATS: {line.decode(errors='replace')}")

    def _hello(self) -> bytes:
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "benchmark",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "name": self._agent,
            "user": self._login.user,
            "pass": self._login.password,
        }
        lines = [f"CONNECT {json.dumps(options)}", f"SUB {self._replies} 1", f"SUB {self._inbox}.* 2", "PING", ""]
        return "\r\n".join(lines).encode()

    def _message(self, subject: bytes, subscription: bytes, payload: bytes, at: float) -> None:
        if subscription == _ACKS:
            if b'"error"' in payload or b'"duplicate"' in payload or not payload:
                self._end(f"the request was not stored: {payload[:200].decode(errors='replace')}", at)
        elif self._reply is None or not subject.endswith(b"." + self._id):
            self._tally.wrong("an event after the one that ended its request")
        else:
            self._event(self._reply, payload, at)

    def _event(self, reply: Reply, event: bytes, at: float) -> None:
        self._events.append(event)
        if _DELTA in event:
            self._tally.came(reply, event.count(b"tok"), at)
        elif _ENDS.search(event):
            self._end(what_is_wrong(self._events, self._expected, streamed=self._tally.load.stream), at)

    def _end(self, why: str | None, at: float) -> None:
        if self._reply:
            reply, self._reply = self._reply, None
            self._tally.ended(reply, why, at)
            go_on(self, whole=why is None)


def what_is_wrong(events: Sequence[bytes], expected: Sequence[bytes], *, streamed: bool) -> str | None:
    """With the events of one request, of which the last one ends it; None: nothing. `expected`: its tokens."""
    first, *between, last = events
    if b'"type":"completed"' not in last:
        return f"not completed: {last[:300].decode(errors='replace')}"
    if b'"type":"started"' not in first:
        return "the first event is not started"
    for number, event in enumerate(events):
        seq = _SEQ.search(event)
        if b'"attempt":1,' not in event or seq is None or int(seq[1]) != number:
            return "events are missing, out of order or of several attempts"
    if not all(_DELTA in event for event in between) or (between and not streamed):
        return "an event that was not asked for"
    if streamed and _TOKEN.findall(b"".join(between)) != expected:
        return "tokens are missing or out of order"
    return _what_is_wrong_at_the_end(json.loads(last), expected)


def _what_is_wrong_at_the_end(completed: Mapping[str, Any], expected: Sequence[bytes]) -> str | None:
    if completed["message"]["content"].encode().split() != expected:
        return "the message is not what was said"
    usage = completed["usage"]
    if usage["output_tokens"] != len(expected) or usage["source"] != "vendor" or completed["finish_reason"] != "stop":
        return "wrong usage or finish reason"
    return None
