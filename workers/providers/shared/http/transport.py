"""The seam between an adapter and the network: a reply whose bytes are read as they arrive.

An adapter needs no more of HTTP than `Reply`; another client can be put under it without touching a vendor's format.
"""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import aclosing
from typing import Protocol

import anyio
import httpx2

from contracts.wire import reason
from runtime.fair_queue import Flow
from runtime.paced_stream import Pieces, ShortLines, work_of
from workers.providers.shared.http.sse import EventTooLarge

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""The most bytes of one reply, unpacked: many times the longest answer that fits into one message, token by token."""
_BACKLOG_BYTES = 256 * 1024
_PART_BYTES = 64
"""What a part takes in memory beside its bytes: a server may send each byte as one."""
_TURN_BYTES = 16 * 1024
"""The most bytes that a reader is given at once; and TURN_LINES lines of them: 64 events."""
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
        """What arrived since the last call, at least one byte and no more than is soon read; empty at the end.

        Raises ConnectionBroken; EventTooLarge for more than MAX_REPLY_BYTES in all.
        """
        ...

    def charge(self, work_s: float) -> None:
        """Says how many seconds the reader took over what it was given last."""
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

    def __init__(self, response: httpx2.Response, flow: Flow) -> None:
        """`flow`: the share of the event loop in which the reply is read."""
        self._response = response
        self._flow = flow
        self._short_lines = ShortLines()
        self._parts: list[bytes] = []
        self._backlog = 0
        self._taken_out = Pieces()
        self._worked_s = 0.0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._receiving = asyncio.create_task(self._receive(), name="vendor-reply")

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        if self._parts or self._taken_out:
            await asyncio.sleep(0)  # a server that is always ready must not keep the loop
        if not self._taken_out:
            if not await self._some_arrived():
                return b""
            self._taken_out.put(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
            self._parts.clear()
            self._backlog = 0
            self._taken.set()
        piece, lines = self._taken_out.take(_TURN_BYTES)
        if self._short_lines.are_too_many(lines=lines, size=len(piece)):
            raise ConnectionBroken("it has more short lines than any reply has")
        if self._flow.owes(max(work_of(lines=lines, size=len(piece)), self._worked_s)):
            await self._flow.settle()
        return piece

    def charge(self, work_s: float) -> None:
        self._worked_s = work_s

    async def drain(self) -> None:
        await asyncio.wait([self._receiving], timeout=_DRAIN_S)

    async def aclose(self) -> None:
        self._receiving.cancel()
        await asyncio.wait([self._receiving])
        if not self._receiving.cancelled():
            self._receiving.exception()  # asyncio logs an exception of a task that nobody has looked at
        await self._response.aclose()

    async def _some_arrived(self) -> bool:
        """Waits for something to read; False at the end of the reply. Raises as `Reply.read` does."""
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
            return False
        return True

    async def _receive(self) -> None:
        received = 0
        try:
            async with aclosing(self._response.aiter_bytes()) as parts:
                async for part in parts:
                    received += len(part)
                    if received > MAX_REPLY_BYTES:
                        raise EventTooLarge(f"a reply of more than {MAX_REPLY_BYTES} bytes")
                    self._parts.append(part)
                    self._backlog += len(part) + _PART_BYTES
                    self._arrived.set()
                    if self._backlog > _BACKLOG_BYTES:
                        # Nothing more is received until the reader has taken this, so that TCP slows the server down.
                        self._taken.clear()
                        await self._taken.wait()
        finally:
            self._arrived.set()


def describe(exc: BaseException) -> str:
    """What went wrong on the network, in one line; the innermost cause says it best."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return reason(exc)
