"""A connection over HTTP/1.1 that is kept for one request after another."""

import asyncio
import select
from collections.abc import Callable
from typing import cast

from runtime.fair_queue import Flow
from workers.providers.shared.http.reply import HttpReply

WRITTEN_BYTES = 64 * 1024
"""So much of a request's body is given to the connection at once."""


class Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(
        self, flow: Flow, *, on_idle: "Callable[[Connection], None]", on_lost: "Callable[[Connection], None]"
    ) -> None:
        """`flow`: the share of the event loop in which replies are read. `on_idle` is called when another request may
        be sent, `on_lost` when the connection is closed, by whomever."""
        self._flow = flow
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        """None when it is closed."""
        self._reply: HttpReply | None = None
        """What the bytes that arrive belong to; None while the connection is idle."""
        self._is_paused = False
        self._writable: asyncio.Future[None] | None = None
        """None when more may be written."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether an idle connection is open, and nothing has come on it: neither its end nor what nobody asked for,
        of which the event loop may not know when it has not gone round since."""
        if self._transport is None or self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    async def send(self, head: bytes, body: bytes) -> HttpReply:
        """The reply to a request, of which the head has come.

        Raises ConnectionBroken. The connection is closed when it raises, and when it is cancelled.
        """
        reply = self._reply = HttpReply(self, self._flow)
        try:
            if len(body) <= WRITTEN_BYTES:
                self._write(head + body)
                reply.is_sent = True
            else:
                self._write(head)
                await self._send_body(body, reply)
            await reply.head
        except BaseException:
            reply.close()
            raise
        return reply

    def close(self) -> None:
        """At once; a reply that is arriving is broken off."""
        if self._reply is not None:
            self._reply.received_all(ConnectionAbortedError("the client was closed"))
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._reply is not None:
            self._reply.received(data)
        else:
            self.close()

    def eof_received(self) -> None:
        if self._reply is not None:
            self._reply.received_all(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        if self._reply is not None:
            self._reply.received_all(exc)
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def pause_reading(self) -> None:
        if not self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def release(self, *, reusable: bool) -> None:
        self._reply = None
        if reusable and self.is_open:
            self.resume_reading()
            self._on_idle(self)
        else:
            self.close()

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def _send_body(self, body: bytes, reply: HttpReply) -> None:
        """As fast as it is taken; no more of it when the server has answered before its end."""
        rest = memoryview(body)
        while rest and not reply.head.done():
            self._write(rest[:WRITTEN_BYTES])
            rest = rest[WRITTEN_BYTES:]
            if self._writable is not None:
                await asyncio.wait([self._writable, reply.head], return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)  # whoever takes all at once must not keep the loop, nor an answer unread
        reply.is_sent = not rest
