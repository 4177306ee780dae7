"""A reply over HTTP/1.1, as its bytes arrive: its head, and what of the bytes is its body. Parsed by llhttp.

llhttp is told to read what h11 reads, and what real servers send: lines that end in LF, continued lines of a header,
control characters in values, a Content-Length beside chunks, blanks behind a chunk's size, odd versions. None of them
leads a client astray: what follows a reply is never read as another one.
"""

from collections.abc import Mapping

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from contracts.wire import reason
from runtime.paced_stream import MAX_HEAD_BYTES, MAX_HEAD_LINES, MAX_RESPONSE_BYTES, MAX_UNREAD_BYTES, ShortLines

_FRAMING_BYTES = 6
"""What a line is credited with for the framing of chunks, at most, when short lines are counted."""
_NO_CONTENT = frozenset({204, 304})
"""Statuses whose replies have no body, whatever their headers say (RFC 9112, 6.3)."""
_SWITCHING_PROTOCOLS = 101


class ConnectionBroken(Exception):
    """The connection ended before the reply did, or the server sent what no vendor sends."""


class ReplyParser:
    """One reply, interim responses (1xx) before it included."""

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is whole."""
        self.headers: Mapping[str, str] = {}
        self.is_over = False
        """Whether the reply is whole or `broken`."""
        self.broken: ConnectionBroken | None = None
        self.ends_with_connection = False
        self._keeps_alive = False
        self._is_whole = False
        self._fields: dict[str, str] = {}
        self._parts: list[bytes] = []
        """Of the body, from what is being parsed."""
        self._whole_parts = 0
        """How many of them belong to the reply, once that is whole."""
        self._lines = 0
        self._bytes = 0
        self._framing_bytes = 0
        """Since the last byte of the body."""
        self._short_lines = ShortLines()
        self.on_body = self._parts.append
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_keep_alive=True,  # an interim response may say `Connection: close`
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_version=True,
        )

    @property
    def is_whole(self) -> bool:
        return self._is_whole and self.broken is None

    @property
    def leaves_connection_usable(self) -> bool:
        """Whether another request may be sent on the connection, once the reply is whole."""
        return self._keeps_alive and self.is_whole

    def feed(self, data: bytes, lines: int) -> bytes:
        """What `data`, which has so many lines, holds of the body."""
        if self._is_beyond_limits(len(data), lines):
            return b""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._keeps_alive = False
            if not self.is_over:
                self._break(f"the server sent no HTTP: {exc}")
        parts = self._parts
        if self._is_whole and len(parts) > self._whole_parts:
            del parts[self._whole_parts :]
        if not parts:
            body = b""
        else:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        self._count(len(data), lines, len(body))
        return body

    def feed_eof(self, lost: Exception | None) -> None:
        """Says that the server has closed the connection, or that it was `lost`."""
        if self.is_over:
            return
        if self.ends_with_connection and lost is None:
            self._is_whole = self.is_over = True
        else:
            self._break("the connection was closed before the reply's end" if lost is None else reason(lost))

    def close(self) -> None:
        """Lets go of the parser, which holds on to this."""
        del self._parser

    def on_message_begin(self) -> None:
        if self._is_whole:
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status or self.is_over:
            return  # of trailers, or of what nobody asked for
        key = name.decode("latin-1").strip().lower()
        text = value.decode("latin-1").strip()
        self._fields[key] = f"{self._fields[key]}, {text}" if key in self._fields else text

    def on_headers_complete(self) -> None:
        if self.status or self.is_over:
            return
        status, fields = self._parser.get_status_code(), self._fields
        self._fields = {}
        if status < 100 or status == _SWITCHING_PROTOCOLS:
            self._break(f"the server answered with the status {status}")
            return
        if status < 200:
            return
        coding = fields.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            self._break("the server sent a transfer coding that it was not asked for")
            return
        if any("\0" in text for text in fields.values()):
            self._break("the server sent no HTTP: a header with NUL")
            return
        self._parts.clear()  # what interim responses had, which have no body
        length = fields.get("content-length")
        self.status, self.headers = status, fields
        self._keeps_alive = self._parser.should_keep_alive() and (coding is None or length is None)
        if status in _NO_CONTENT:
            self._end()
        else:
            self.ends_with_connection = coding is None and length is None

    def on_message_complete(self) -> None:
        if self.status and not self.is_over:
            self._end()

    def _end(self) -> None:
        self._is_whole = self.is_over = True
        self._whole_parts = len(self._parts)

    def _break(self, why: str) -> None:
        self.broken = ConnectionBroken(why)
        self.is_over = True

    def _is_beyond_limits(self, size: int, lines: int) -> bool:
        self._bytes += size
        if not self.status:
            self._lines += lines
            if self._lines > MAX_HEAD_LINES or self._bytes > MAX_HEAD_BYTES:
                self._break(f"more than {MAX_HEAD_LINES} lines or {MAX_HEAD_BYTES} bytes of headers")
                return True
        elif self._bytes > MAX_RESPONSE_BYTES:
            self._break(f"a response of more than {MAX_RESPONSE_BYTES} bytes")
            return True
        return False

    def _count(self, size: int, lines: int, body: int) -> None:
        """Breaks the reply off when a line of its framing, or its trailers, are longer than any reply has, and when it
        has too many short lines."""
        if self._framing_bytes or not body:
            self._framing_bytes += size - body
            if self._framing_bytes > MAX_UNREAD_BYTES and self.status and not self.is_over:
                self._break(f"more than {MAX_UNREAD_BYTES} bytes between two pieces of the body")
            if body:
                self._framing_bytes = 0
        most = body + _FRAMING_BYTES * lines
        if self._short_lines.are_too_many(lines=lines, size=min(size, most)) and not self.is_over:
            self._break("more short lines than any reply has")
