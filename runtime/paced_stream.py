"""A connection to a server that may be hostile: what it sends is handed to the HTTP client in bounded pieces.

Whatever h11 does with what it reads, it does once for each line at most: a head, an interim response, a header, a chunk
and a trailer all end with a line feed. It does all of it without a pause for what one read brought, some 5 µs a line.
So a read hands out TURN_LINES lines at most, gives the loop back after each piece, and waits where the server asks for
more than its share (runtime.fair_queue). A reply of nothing but short lines is broken off.
"""

import asyncio
import re
import ssl
from time import monotonic as now
from typing import Any

import httpcore2

from runtime.fair_queue import Flow

TURN_LINES = 128
"""The most lines in a piece: some 0.6 ms of work."""
LINE_S = 5e-6
BYTE_S = 10e-9
PIECE_S = 10e-6
"""What a line, a byte and a piece cost in all layers above, in seconds, as measured."""
MAX_UNREAD_BYTES = 32 * 1024
"""The most that h11 keeps of a head, of trailers or of the line before a chunk, until it is whole: then it reads all of
it at once, in 15 ms when each line is of three bytes."""
MAX_HEAD_LINES = 1000
MAX_HEAD_BYTES = 128 * 1024
"""Of all that comes before a body, interim responses (1xx) included. Vendors send 20 to 60 lines and up to 8 kB."""
BYTES_A_LINE = 12
"""A line of a reply has at least so many bytes, on average. Framing included, events of vendors have 30 and more, and
the shortest that hold a token 13."""
SHORT_LINES = 500_000
"""So many shorter lines may come in a row. A byte a chunk is two: some proxies and relays send honest replies so. One
without an end is broken off after some 9 s, of which it has the loop for 2."""
SHORT_LINES_A_S = 200.0
"""So many more may come each second, so that no pings end a reply, however long it takes."""
MAX_RESPONSE_BYTES = 512 * 1024**2
"""Of one response as it is sent, with its framing."""

_TURN = re.compile(rb"(?:[^\n]*\n){%d}" % TURN_LINES)


def work_of(*, lines: int, size: int) -> float:
    """What a piece of a reply costs, in seconds."""
    return PIECE_S + lines * LINE_S + size * BYTE_S


class Pieces:
    """What was received at once, to be handed out a piece at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._lines = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def put(self, data: bytes) -> None:
        """Takes what follows, once nothing is left."""
        self._data, self._at, self._lines = data, 0, data.count(b"\n")

    def take(self, most_bytes: int) -> tuple[bytes, int]:
        """The next piece, with TURN_LINES lines at most, and how many it has."""
        if not self._at and self._lines <= TURN_LINES and len(self._data) <= most_bytes:
            self._at = len(self._data)
            return self._data, self._lines
        piece = self._data[self._at : self._at + most_bytes]
        lines = min(self._lines, TURN_LINES) if len(piece) == len(self._data) - self._at else piece.count(b"\n")
        if self._lines > TURN_LINES and (whole := _TURN.match(piece)):
            piece, lines = whole.group(), TURN_LINES
        self._at += len(piece)
        self._lines -= lines
        return piece, lines


class ShortLines:
    """How many short lines a reply may still have."""

    def __init__(self) -> None:
        self._left = float(SHORT_LINES)
        self._counted_at = now()

    def are_too_many(self, *, lines: int, size: int) -> bool:
        """Whether they are, with those `lines` in `size` bytes."""
        self._left = min(SHORT_LINES, self._left + size / BYTES_A_LINE) - lines
        if self._left >= 0:
            return False
        counted_at = now()
        self._left = min(SHORT_LINES, self._left + (counted_at - self._counted_at) * SHORT_LINES_A_S)
        self._counted_at = counted_at
        return self._left < 0


class PacedStream(httpcore2.AsyncNetworkStream):
    """A connection whose reads are bounded.

    Raises httpcore2.RemoteProtocolError where the server sends what no vendor sends.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream, flow: Flow) -> None:
        self._stream = stream
        self.flow = flow
        self._received = Pieces()
        self._expect_response()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._received:
            await asyncio.sleep(0)
        elif data := await self._stream.read(max_bytes, timeout):
            self._received.put(data)
        else:
            return b""
        piece, lines = self._received.take(max_bytes)
        self._check(lines, len(piece))
        if self.flow.owes(work_of(lines=lines, size=len(piece))):
            await self.flow.settle()
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._expect_response()
        await self._stream.write(buffer, timeout)

    def head_ended(self) -> None:
        """Says that what comes now is a body."""
        self._in_head = False

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return PacedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self.flow)

    def get_extra_info(self, info: str) -> Any:
        """`is_readable` of a connection that is idle says that the server has closed it, or sent what nobody asked."""
        if info == "is_readable" and self._received:
            return True
        return self._stream.get_extra_info(info)

    def _expect_response(self) -> None:
        self._in_head = True
        self._response_lines = self._response_bytes = 0
        self._short_lines = ShortLines()

    def _check(self, lines: int, size: int) -> None:
        self._response_lines += lines
        self._response_bytes += size
        if self._in_head and (self._response_lines > MAX_HEAD_LINES or self._response_bytes > MAX_HEAD_BYTES):
            raise httpcore2.RemoteProtocolError(
                f"more than {MAX_HEAD_LINES} lines or {MAX_HEAD_BYTES} bytes of headers"
            )
        if self._response_bytes > MAX_RESPONSE_BYTES:
            raise httpcore2.RemoteProtocolError(f"a response of more than {MAX_RESPONSE_BYTES} bytes")
        if self._short_lines.are_too_many(lines=lines, size=size):
            raise httpcore2.RemoteProtocolError("more short lines than any reply has")
