"""HTTP/1.1 messages whose end every reader sees at the same place.

Where a proxy and a server disagree about where a request ends, one caller's bytes become another's request (RFC 9112,
11.2). h11 reads more than it has to: it prefers Transfer-Encoding to a Content-Length beside it, takes equal lengths
twice, lone line feeds as line ends, and header lines that are folded. What could be read in two ways is refused here,
with 400, and its connection is closed.
"""

import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LARGEST_HEAD = 64 * 1024
"""A cursor may have 4,096 characters, and each as many as twelve bytes in a URL."""
_MOST_HEADERS = 200
_SMALL_CHUNK = 512
_MOST_SMALL_CHUNKS = 1000

_END = re.compile(rb"\n\r?\n")
_LINE_END_OR_FOLD = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\n[ \t]")
_LENGTH = re.compile(rb"\n(?:content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_ONE_LENGTH = re.compile(rb"[0-9]+[ \t]*|chunked[ \t]*", re.IGNORECASE)


def problem(head: bytes) -> str | None:
    """What is wrong with a request's line and headers, as far as they are there; None: nothing.

    `head` may go on with the body, which is not looked at.
    """
    head = head.lstrip(b"\r\n")
    end = _END.search(head)
    if end:
        head = head[: end.end()]
    if _LINE_END_OR_FOLD.search(head):
        return "lines must end with CR LF and must not be folded"
    if len(head) > _LARGEST_HEAD:
        return f"a request line and its headers may have at most {_LARGEST_HEAD} bytes"
    if head.count(b"\n") > _MOST_HEADERS + 2:
        return f"a request may have at most {_MOST_HEADERS} headers"
    lengths: list[bytes] = _LENGTH.findall(head) if end else []
    if len(lengths) > 1 or not all(map(_ONE_LENGTH.fullmatch, lengths)):
        return "give one Content-Length, or one Transfer-Encoding: chunked"
    return None


class StrictHttp(H11Protocol):
    """uvicorn's protocol over h11, without what `problem` refuses, and without bodies in crumbs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _FewChunks(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
        self._searched = 0
        """Bytes of the next head in which no end begins, so that one in crumbs is not searched anew with each."""

    def handle_events(self) -> None:
        # Also called for what was sent ahead, once the request before it is answered.
        if self.conn.their_state is h11.IDLE:
            head = self.conn.trailing_data[0]
            end = _END.search(head, self._searched)
            self._searched = 0 if end else max(0, len(head) - 2)
            # h11 parses nothing before the end is there, so nothing has to be refused before.
            if (end or len(head) > _LARGEST_HEAD) and (wrong := problem(head)):
                self.send_400_response(wrong)
                return
        super().handle_events()


class _FewChunks(h11.Connection):
    """h11 takes some 20 µs for a chunk, however small it is, and nothing else runs while a read is parsed."""

    _small = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._small = 0
        elif isinstance(event, h11.Data) and event.chunk_start and len(event.data) < _SMALL_CHUNK:
            self._small += 1
            if self._small > _MOST_SMALL_CHUNKS:
                raise h11.RemoteProtocolError(
                    f"more than {_MOST_SMALL_CHUNKS} chunks of less than {_SMALL_CHUNK} bytes"
                )
        return event
