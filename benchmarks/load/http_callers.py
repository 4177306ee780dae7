"""Callers over HTTP, of a gateway or of the vendor itself: each has a connection of its own."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from benchmarks.load.callers import Load, Reply, Tally, go_on, now

_TOKEN = re.compile(rb"tok\d+")
_TOKEN_BEGINS = b'"tok'
"""How a token begins in a stream, where it is the whole of a text."""
_LENGTH = b"\r\ncontent-length:"


@dataclass(frozen=True, slots=True)
class Address:
    """Where OpenAI's chat completions are served on 127.0.0.1."""

    port: int
    path: str = "/v1/chat/completions"
    model_prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: {"authorization": "Bearer sk-benchmark"})

    def request(self, load: Load) -> bytes:
        """A request as it is written to the connection."""
        body = load.body() | {"model": self.model_prefix + load.script.model}
        if load.stream:
            body["stream_options"] = {"include_usage": True}
        content = json.dumps(body).encode()
        fields = {
            "host": f"127.0.0.1:{self.port}",
            "content-type": "application/json",
            "content-length": str(len(content)),
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + content


class HttpCaller(asyncio.Protocol):
    """A `Caller`; `connect` before it begins. A connection that the gateway closes between requests is made anew."""

    def __init__(self, tally: Tally, address: Address) -> None:
        self._tally = tally
        self._port = address.port
        self._request = address.request(tally.load)
        self._expected = tally.load.tokens()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._parts: list[bytes] = []
        self._head: bytes | None = None
        self._missing: int | None = None
        """Bytes of the body that are to come; None: it comes in chunks."""

    async def connect(self) -> None:
        await self._loop.create_connection(lambda: self, "127.0.0.1", self._port)

    def begin(self) -> None:
        if not self._tally.running:
            return
        self._reply = Reply(self._tally)
        self._parts, self._head, self._missing = [], None, None
        if self._transport:
            self._transport.write(self._request)
        else:
            self._connecting = self._loop.create_task(self._connect_and_ask(), name="connect again")

    async def _connect_and_ask(self) -> None:
        try:
            await self.connect()
        except OSError as exc:
            self._end(f"cannot connect: {exc}")
        else:
            assert self._transport
            self._transport.write(self._request)

    def close(self) -> None:
        self._reply = None
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._reply:
            self._end("the connection was closed within a reply")

    def data_received(self, data: bytes) -> None:
        at, reply = now(), self._reply
        if reply is None:
            return
        if self._head is None:
            data = b"".join((*self._parts, data))
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._parts = [data]
                return
            self._head, self._parts, data = data[:end].lower(), [], data[end + 4 :]
            self._missing = _content_length(self._head)
        self._parts.append(data)
        if self._tally.load.stream and (tokens := data.count(_TOKEN_BEGINS)):
            self._tally.came(reply, tokens, at)
        if self._is_whole(data):
            self._end(self._what_is_wrong())

    def _is_whole(self, data: bytes) -> bool:
        if self._missing is None:
            # The last chunk may come in pieces, so that only a short piece makes it worth to look at what came before.
            return data.endswith(b"0\r\n\r\n") or (
                len(data) < 5 and b"".join(self._parts[-6:]).endswith(b"\r\n0\r\n\r\n")
            )
        self._missing -= len(data)
        return self._missing <= 0

    def _end(self, why: str | None) -> None:
        assert self._reply
        reply, self._reply = self._reply, None
        self._tally.ended(reply, why, now())
        if self._head and b"\r\nconnection: close" in self._head and self._transport:
            self._transport.abort()
            self._transport = None
        go_on(self, whole=why is None)

    def _what_is_wrong(self) -> str | None:
        assert self._head
        status, body = self._head[9:12].decode(), b"".join(self._parts)
        if status != "200":
            return f"status {status}: {body[:200].decode(errors='replace')}"
        if _TOKEN.findall(body) != self._expected:
            return "tokens are missing or out of order"
        if b'"completion_tokens"' not in body:
            return "no usage"
        if self._tally.load.stream and b"data: [DONE]" not in body[-80:]:
            return "no [DONE]"
        return None


def _content_length(head: bytes) -> int | None:
    begins = head.find(_LENGTH)
    return None if begins < 0 else int(head[begins + len(_LENGTH) :].split(b"\r\n", 1)[0])
