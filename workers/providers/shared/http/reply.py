"""A reply whose head has come, and whose body is passed on as it arrives.

What one small read brings goes straight to whoever takes it, inside the event loop's callback. What one read brings
beyond a turn, what has to wait for a turn (runtime.fair_queue) and what the taker asks to wait for is handed out by a
task, piece by piece; the loop is given back between two of them, and no more is read meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import chain
from time import perf_counter
from typing import Protocol

from runtime.content_coding import UndecodableBody, Unpacking, window_bits
from runtime.fair_queue import Flow
from runtime.paced_stream import TURN_LINES, Pieces, ShortLines
from workers.providers.shared.http.framing import ConnectionBroken, ReplyParser
from workers.providers.shared.http.sse import EventTooLarge

MAX_REPLY_BYTES = 256 * 1024 * 1024
"""The most bytes of one reply, unpacked: many times the longest answer that fits into one message, token by token."""
TURN_BYTES = 16 * 1024
"""The most bytes that are passed on at once; and TURN_LINES lines of them: 64 events."""

_READ_S = 4e-6
"""What the event loop and the system need for a read, in seconds, as measured."""

Take = Callable[[bytes], Awaitable[None] | None]
Ended = Callable[[Exception | None], None]


class Carrier(Protocol):
    """The connection on which a reply arrives."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def release(self, *, reusable: bool) -> None:
        """Says that the reply is over; without `reusable` the connection is closed at once."""
        ...


class HttpReply:
    """One reply. Its connection calls `received` and `received_all`; whoever asked for it the rest."""

    def __init__(self, carrier: Carrier, flow: Flow) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        """Names are in lower case; the values of several lines with one name are joined by commas."""
        self.flow = flow
        self.head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the head has come; else it has a ConnectionBroken."""
        self.is_sent = False
        """Whether the request was sent whole."""
        self._carrier = carrier
        self._parser = ReplyParser()
        self._take: Take | None = None
        self._ended: Ended | None = None
        self._begins: asyncio.Handle | None = None
        self._is_closed = False
        self._is_received = False
        """Whether nothing more will arrive."""
        self._lost: Exception | None = None

        self._waits = False
        """Whether what arrives is kept, because what came before is not passed on."""
        self._arrived: list[bytes] = []
        self._pieces = Pieces()
        self._early = b""
        """Of the body, what came with the head."""
        self._awaited: asyncio.Future[None] | None = None
        """What the taker asked to wait for, or a turn."""
        self._handing_out: asyncio.Task[None] | None = None

        self._body_bytes = 0
        self._unpacking: Unpacking | None = None
        self._unpacked: Iterator[bytes] | None = None
        """What is left of a piece of a packed body."""
        self._short_lines = ShortLines()
        """Of a body that was packed."""

    def deliver(self, take: Take, ended: Ended) -> None:
        """From now on `take` gets the body without its content coding, from inside a callback of the event loop: at
        most TURN_BYTES and TURN_LINES lines at once. What it returns is awaited before more is read; what it raises is
        given to `ended`.

        `ended` is called once: with None at the reply's end in good order, else with ConnectionBroken or EventTooLarge.
        Neither is called before this has returned, nor after `close`.
        """
        self._take, self._ended = take, ended
        if not self._is_closed:
            self._begins = asyncio.get_running_loop().call_soon(self._begin)

    async def body(self, *, most: int, cut: bool = False) -> bytes:
        """The whole body, without its content coding; the reply is closed then. Of more than `most` bytes the beginning
        with `cut`, else it raises EventTooLarge. Raises ConnectionBroken."""
        body = bytearray()
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(data: bytes) -> None:
            body.extend(data)
            if len(body) <= most:
                return
            if not cut:
                raise EventTooLarge(f"an answer of more than {most} bytes")
            self.close()
            end.set_result(None)

        def ended(exc: Exception | None) -> None:
            if end.done():
                return
            if exc is None:
                end.set_result(None)
            else:
                end.set_exception(exc)

        self.deliver(take, ended)
        try:
            await end
        finally:
            self.close()
        return bytes(body[:most])

    def close(self) -> None:
        """Closes the connection at once, unless the reply was read to its end: then it is idle again."""
        if self._is_closed:
            return
        if self._awaited is not None:
            self._awaited.cancel()
        if self._handing_out is not None:
            self._handing_out.cancel()
        self._over(reusable=not (self._arrived or self._pieces))

    def received(self, data: bytes) -> None:
        """Says what has arrived."""
        if self._waits:
            self._arrived.append(data)
            self._carrier.pause_reading()
            return
        lines = data.count(b"\n")
        if len(data) > TURN_BYTES or lines > TURN_LINES:
            self._arrived.append(data)
            self._hand_out_after(None)
            return
        try:
            waits = self._pass_on(data, lines)
        except Exception as exc:  # noqa: BLE001 - of the taker, to whom it is given
            self._end(exc)
            return
        if waits is not None or self._unpacked is not None:
            self._hand_out_after(waits)
        elif self._parser.is_over and not self._waits:
            self._end(self._parser.broken)

    def received_all(self, exc: Exception | None) -> None:
        """Says that nothing more will arrive; `exc`: the connection was lost so."""
        if self._is_received or self._is_closed:
            return
        self._is_received = True
        self._lost = exc
        if not self._waits:
            self._finish()

    def _begin(self) -> None:
        """Goes on behind the head, now that somebody takes the body."""
        early, self._early = self._early, b""
        self._waits = False
        try:
            waits = self._give(early) if early else None
        except Exception as exc:  # noqa: BLE001 - of the taker, to whom it is given
            self._end(exc)
            return
        if waits is not None or self._unpacked is not None or self._pieces or self._arrived:
            self._hand_out_after(waits)
        elif not self._is_closed:
            self._carrier.resume_reading()
            self._finish()

    def _pass_on(self, data: bytes, lines: int) -> Awaitable[None] | None:
        """What is to be awaited before more is passed on."""
        begun = perf_counter()
        body = self._parser.feed(data, lines)
        if self._take is not None:
            return self._charged(begun, self._give(body) if body else None)
        if not self._parser.status:
            return self._charged(begun, None)
        self._head_came(body)
        return None

    def _head_came(self, body: bytes) -> None:
        self.status, self.headers = self._parser.status, self._parser.headers
        bits = window_bits(self.headers.get("content-encoding", ""))
        if bits is not None:
            self._unpacking = Unpacking(bits)
        self._early = body
        self._waits = True
        if not self.head.done():
            self.head.set_result(None)

    def _give(self, body: bytes) -> Awaitable[None] | None:
        """Gives the taker what has come of the body; the first piece, when it was packed."""
        if self._unpacking is None:
            return self._give_piece(body)
        pieces = _unpacked(self._unpacking, body)
        piece, following = next(pieces, b""), next(pieces, None)
        if following is not None:
            self._unpacked = chain((following,), pieces)
        return self._give_unpacked(piece)

    def _give_unpacked(self, piece: bytes) -> Awaitable[None] | None:
        lines = piece.count(b"\n")
        if self._short_lines.are_too_many(lines=lines, size=len(piece)):
            raise ConnectionBroken("more short lines than any reply has")
        return self._give_piece(piece) if piece else None

    def _give_piece(self, piece: bytes) -> Awaitable[None] | None:
        self._body_bytes += len(piece)
        if self._body_bytes > MAX_REPLY_BYTES:
            raise EventTooLarge(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        return self._take(piece) if self._take is not None else None

    def _charged(self, begun: float, waits: Awaitable[None] | None) -> Awaitable[None] | None:
        """Takes note of the work since `begun`: what is to be awaited before there is more."""
        owes = self.flow.owes(perf_counter() - begun + _READ_S)
        if owes and waits is None and not self._is_closed and not self.flow.settles():
            return self.flow.settle()
        return waits

    def _hand_out_after(self, waits: Awaitable[None] | None) -> None:
        self._waits = True
        # In a task of its own: the one that awaits it may be cancelled before its first step.
        self._awaited = None if waits is None else asyncio.ensure_future(waits)
        self._handing_out = asyncio.create_task(self._hand_out(self._awaited), name="hand out a reply")

    async def _hand_out(self, waits: Awaitable[None] | None) -> None:
        """Passes on what has arrived, until nothing is left."""
        try:
            while True:
                if waits is not None:
                    await waits
                    waits = None
                if self._is_closed:
                    return
                if self._unpacked is not None:
                    await asyncio.sleep(0)
                    begun = perf_counter()
                    piece = next(self._unpacked, None)
                    if piece is None:
                        self._unpacked = None
                    else:
                        waits = self._charged(begun, self._give_unpacked(piece))
                elif not self._parser.is_over and (self._pieces or self._arrived):
                    if not self._pieces:
                        self._pieces.put(b"".join(self._arrived))
                        self._arrived.clear()
                    await asyncio.sleep(0)
                    waits = self._pass_on(*self._pieces.take(TURN_BYTES))
                    if self._take is None and self.status:
                        self._handing_out = None
                        return
                else:
                    break
        except asyncio.CancelledError:
            self._end(ConnectionBroken("whoever took the reply was cancelled"))
            raise
        except Exception as exc:  # noqa: BLE001 - of the taker, to whom it is given
            self._end(exc)
            return
        self._handing_out = None
        self._waits = False
        self._carrier.resume_reading()
        self._finish()

    def _finish(self) -> None:
        """Ends the reply, when nothing more of it will come."""
        if self._is_received:
            self._parser.feed_eof(self._lost)
        if self._parser.is_over:
            self._end(self._parser.broken)

    def _end(self, exc: Exception | None) -> None:
        if self._is_closed:
            return
        if isinstance(exc, UndecodableBody):
            exc = ConnectionBroken(str(exc))
        if not self.head.done():
            self.head.set_exception(exc or ConnectionBroken("the server sent no head"))
        ended = self._ended
        self._over(reusable=exc is None and not (self._arrived or self._pieces))
        if ended is not None:
            ended(exc)

    def _over(self, *, reusable: bool) -> None:
        self._is_closed = True
        self.head.cancel()
        if self._begins is not None:
            self._begins.cancel()
        self._parser.close()
        # Who took the reply holds on to it, and both to megabytes, perhaps, until the collector comes by.
        self._take = self._ended = None
        self._carrier.release(reusable=reusable and self.is_sent and self._parser.leaves_connection_usable)


def _unpacked(unpacking: Unpacking, packed: bytes) -> Iterator[bytes]:
    """What `packed` becomes, in pieces that may be passed on at once; an empty one stands for work without a result."""
    pieces = Pieces()
    for unpacked in unpacking.feed(packed):
        if not unpacked:
            yield b""
        pieces.put(unpacked)
        while pieces:
            yield pieces.take(TURN_BYTES)[0]
