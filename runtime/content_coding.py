"""The content coding of a response, undone in bounded pieces: gzip and deflate, once.

Servers that are asked for them nest no codings, so that two are refused; each would multiply what a small body can
become. Any other word in `content-encoding` is passed over as httpx2 does: odd servers write `utf-8` there, also beside
a coding.
"""

import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Generator
from typing import Any

from runtime.fair_queue import Flow
from runtime.paced_stream import work_of

ACCEPTED = "gzip, deflate"
"""The `Accept-Encoding` of our requests."""
UNPACKED_BYTES = 64 * 1024
"""So much is unpacked at once, so that a small packed body fills neither the memory nor the loop."""

_GZIP, _ZLIB, _DEFLATE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_WINDOW_BITS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_CODINGS = _WINDOW_BITS.keys() | {"br", "zstd", "compress", "x-compress", "dcb", "dcz"}
"""All that are registered (RFC 9110, 8.4.1; RFC 9842), whether we undo them or not."""
_HEAD_BYTES = 2
_PACKED_BYTES = 2048
"""So much is given to zlib at once: it copies what it does not take."""
_MEMBER_LINES = 2
"""What a member of a gzip costs, in lines."""
_EMPTY_MEMBERS = 100
"""So many may stand one behind the other."""


class UndecodableBody(Exception):
    """A body is not packed as its head says, or in a way that no server packs it."""


def window_bits(content_encoding: str) -> int | None:
    """How zlib undoes the coding that a header names; None when there is nothing to undo.

    Raises UndecodableBody for several codings.
    """
    named = [word for given in content_encoding.split(",") if (word := given.strip().lower()) in _CODINGS]
    if len(named) > 1:
        raise UndecodableBody("several content codings, where one was asked for")
    return _WINDOW_BITS.get(named[0]) if named else None


async def unpacked(parts: AsyncIterable[bytes], bits: int, flow: Flow | None) -> AsyncGenerator[bytes]:
    """The body whose packed `parts` arrive. Raises UndecodableBody."""
    unpacking = Unpacking(bits)
    async for part in parts:
        for piece in unpacking.feed(part):
            if flow and flow.owes(work_of(lines=_MEMBER_LINES, size=len(piece))):
                await flow.settle()
            if piece:
                yield piece
        if unpacking.ended:
            return


class Unpacking:
    """A gzip may have several members (RFC 1952, 2.2), of which httpx2 2.16 leaves out all but the first; what is no
    member behind one is padding. A deflate comes with zlib's header (RFC 9110, 8.4.1.2), or without, as some send it.
    """

    def __init__(self, bits: int) -> None:
        """`bits`: see `window_bits`."""
        self._bits = bits
        self._member: Any = None
        """The decompressor; None until it is known which one it takes."""
        self._head = b""
        self._may_be_padding = False
        self._empty_members = 0
        self.ended = False
        """Whether the rest is padding."""

    def feed(self, packed: bytes) -> Generator[bytes]:
        """What `packed` becomes, UNPACKED_BYTES at a time at most; an empty piece for a member that added nothing.

        Raises UndecodableBody.
        """
        for at in range(0, len(packed), _PACKED_BYTES):
            if self.ended:
                return
            yield from self._feed(packed[at : at + _PACKED_BYTES])

    def _feed(self, packed: bytes) -> Generator[bytes]:
        if self._member is None:
            self._head += packed
            if len(self._head) < _HEAD_BYTES:
                return
            self._member = zlib.decompressobj(_DEFLATE if self._is_bare(self._head) else self._bits)
            packed = self._head
        is_full = False
        while packed or is_full:
            if self._member.eof:
                if self._bits != _GZIP:
                    self.ended = True
                    return
                self._member, self._may_be_padding = zlib.decompressobj(_GZIP), True
            try:
                piece = self._member.decompress(packed, UNPACKED_BYTES)
            except zlib.error as exc:
                if not self._may_be_padding:
                    raise UndecodableBody(str(exc)) from exc
                self.ended = True
                return
            self._count_empty(piece)
            yield piece
            packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            is_full = len(piece) == UNPACKED_BYTES and not self._member.eof

    def _is_bare(self, head: bytes) -> bool:
        """Whether a deflate has no header of zlib (RFC 1950, 2.2)."""
        return self._bits == _ZLIB and (head[0] & 0x0F != zlib.DEFLATED or int.from_bytes(head[:2]) % 31 != 0)

    def _count_empty(self, piece: bytes) -> None:
        self._may_be_padding = self._may_be_padding and not piece
        self._empty_members = self._empty_members + 1 if self._member.eof and not piece else 0
        if self._empty_members > _EMPTY_MEMBERS:
            raise UndecodableBody("nothing but empty members of a gzip")
