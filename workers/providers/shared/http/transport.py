"""The seam between an adapter and the network: a reply whose bytes are read as they arrive.

An adapter needs no more of HTTP than `Reply`; another client can be put under it without touching a vendor's format.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol

import anyio
import httpx2

from contracts.wire import reason

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""The most bytes of one reply, unpacked: many times the longest answer that fits into one message, token by token."""
_BACKLOG_BYTES = 1024 * 1024
_GZIP = zlib.MAX_WBITS | 16
_UNPACKED_BYTES = 256 * 1024
"""So much is unpacked at once, so that a small packed body cannot fill the memory."""
_DRAIN_S = 0.1

CONNECTION_ERRORS = (httpx2.RequestError, httpx2.StreamError, ssl.SSLError, anyio.EndOfStream, OSError)
"""What httpx2 raises when a connection breaks; the last three are not wrapped by it in every place."""


class ConnectionBroken(Exception):
    """The connection ended before the reply did."""


class Reply(Protocol):
    """A reply with status 2xx whose body is still arriving."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """Everything that arrived since the last call, at least one byte; empty at the end.

        Raises ConnectionBroken.
        """
        ...

    async def drain(self) -> None:
        """Reads away what little is left, so that the connection can be used again."""
        ...

    async def aclose(self) -> None:
        """Closes the connection at once, unless the reply was read to its end."""
        ...


class Httpx2Reply:
    """A reply that httpx2 receives.

    httpx2 yields each HTTP chunk on its own, also when one read brought many. A task collects them while the reader
    is not looking, so that what came together is read together.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._parts: list[bytes] = []
        self._backlog = 0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._receiving = asyncio.create_task(self._receive(), name="vendor-reply")

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        while not self._parts:
            if not self._receiving.done():
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if self._receiving.cancelled():
                raise ConnectionBroken("the reply was closed")
            exc = self._receiving.exception()
            if isinstance(exc, CONNECTION_ERRORS):
                raise ConnectionBroken(describe(exc)) from exc
            if exc is not None:
                raise exc
            return b""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._backlog = 0
        self._taken.set()
        return data

    async def drain(self) -> None:
        await asyncio.wait([self._receiving], timeout=_DRAIN_S)

    async def aclose(self) -> None:
        self._receiving.cancel()
        await asyncio.wait([self._receiving])
        if not self._receiving.cancelled():
            self._receiving.exception()  # asyncio logs an exception of a task that nobody has looked at
        await self._response.aclose()

    async def _receive(self) -> None:
        received = 0
        try:
            async for part in _unpacked(self._response):
                if not part:
                    continue
                received += len(part)
                if received > MAX_REPLY_BYTES:
                    raise httpx2.ReadError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
                self._parts.append(part)
                self._backlog += len(part)
                self._arrived.set()
                if self._backlog > _BACKLOG_BYTES:
                    # Nothing more is received until the reader has taken this, so that TCP slows the server down.
                    self._taken.clear()
                    await self._taken.wait()
        finally:
            self._arrived.set()


async def _unpacked(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """The body without its content coding, in the order in which it arrives."""
    is_gzip = response.headers.get("content-encoding", "").strip().lower() == "gzip"
    async with aclosing(_gunzipped(response) if is_gzip else response.aiter_bytes()) as parts:
        async for part in parts:
            yield part


async def _gunzipped(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """A gzip may have several members (RFC 1952, 2.2), of which httpx2 2.16 leaves out all but the first.

    What is no member behind one is padding.
    """
    member = zlib.decompressobj(_GZIP)
    may_be_padding = False
    async with aclosing(response.aiter_raw()) as parts:
        async for packed in parts:
            is_full = False
            while packed or is_full:
                if member.eof:
                    member, may_be_padding = zlib.decompressobj(_GZIP), True
                try:
                    part = member.decompress(packed, _UNPACKED_BYTES)
                except zlib.error as exc:
                    if may_be_padding:
                        return
                    raise httpx2.DecodingError(str(exc)) from exc
                if part:
                    yield part
                    may_be_padding = False
                packed = member.unused_data if member.eof else member.unconsumed_tail
                is_full = len(part) == _UNPACKED_BYTES and not member.eof


def describe(exc: BaseException) -> str:
    """What went wrong on the network, in one line; the innermost cause says it best."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return reason(exc)
