"""As much of HTTP/1.1 as the simulator serves: requests are read whole, bodies leave byte by byte as scripted."""

import asyncio
import re
import socket
import struct
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from fleet.simulator.vendor import HttpRequest

MAX_BODY_BYTES = 64 * 1024 * 1024
_HEX = re.compile(rb"[0-9A-Fa-f]+")
_RESET = struct.pack("ii", 1, 0)


class BadRequest(Exception):
    """What arrived cannot be read as an HTTP request."""


class Cut(Exception):
    """The script ends the connection here."""


class Caller:
    """The other end of a connection, from which requests are read, and which may hang up."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader
        self._ahead = b""
        """The first byte of the next request, when it came before this one was over."""

    async def gone(self) -> None:
        """Returns when the caller has hung up; what it sends meanwhile is kept."""
        self._ahead = self._ahead or await self.reader.read(1)
        if self._ahead:
            await hold()

    async def line(self) -> bytes:
        """The first line of the next request; empty when the caller has hung up."""
        ahead, self._ahead = self._ahead, b""
        return ahead + await self.reader.readline()


async def read_request(caller: Caller) -> HttpRequest | None:
    """The next request of a connection; None when the caller has hung up. Raises BadRequest."""
    reader = caller.reader
    line = await caller.line()
    if not line:
        return None
    try:
        method, target, _version = line.decode("latin-1").split()
    except ValueError:
        raise BadRequest("no request line") from None
    headers: dict[str, str] = {}
    while (field := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = field.partition(":")
        headers[name.strip().lower()] = value.strip()
    url = urlsplit(target)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks: list[bytes] = []
        length = 0
        while True:
            digits = (await reader.readline()).split(b";")[0].strip()
            if not _HEX.fullmatch(digits):  # int() also takes a sign and underscores
                raise BadRequest("the size of a chunk is no hexadecimal number")
            if (size := int(digits, 16)) == 0:
                break
            length += size
            if length > MAX_BODY_BYTES:
                raise BadRequest("the body is too large")
            chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readline()
        body = b"".join(chunks)
    else:
        stated = headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdigit()):
            raise BadRequest("content-length is no number")
        length = int(stated)
        if length > MAX_BODY_BYTES:
            raise BadRequest("the body is too large")
        body = await reader.readexactly(length)
    return HttpRequest(method, unquote(url.path), url.query, headers, body)


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The status line and the headers of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{fields}\r\n".encode("latin-1")


class Body:
    """The chunked body of an answer. Raises Cut where the script cuts. Bytes are counted before compression."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        *,
        cut_after_bytes: int | None = None,
        split_bytes: int | None = None,
        gzip: bool = False,
    ) -> None:
        self._writer = writer
        self._cut_after = cut_after_bytes
        self._split = split_bytes
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31) if gzip else None
        self.sent = 0

    async def write(self, parts: list[bytes]) -> None:
        """Writes each part as one HTTP chunk, all of them in one write to the socket, unless they are split."""
        size = sum(map(len, parts))
        room = size if self._cut_after is None else self._cut_after - self.sent
        is_cut = size > room
        if is_cut:
            parts, size = [b"".join(parts)[:room]], room
        self.sent += size
        if self._split is not None:
            whole = b"".join(parts)
            parts = [whole[at : at + self._split] for at in range(0, size, self._split)]
        if self._gzip:
            parts = [self._gzip.compress(part) + self._gzip.flush(zlib.Z_SYNC_FLUSH) for part in parts if part]
        chunks = [_chunk(part) for part in parts if part]
        if self._split is None:
            self._writer.write(b"".join(chunks))
            if self._writer.transport.get_write_buffer_size():
                await self._writer.drain()
        else:
            for chunk in chunks:
                self._writer.write(chunk)
                await self._writer.drain()
                await asyncio.sleep(0)  # so that the writes leave one by one
        if is_cut:
            raise Cut

    async def end(self) -> None:
        """Ends the body in good order."""
        rest = self._gzip.flush() if self._gzip else b""
        self._writer.write((_chunk(rest) if rest else b"") + b"0\r\n\r\n")
        await self._writer.drain()


def _chunk(data: bytes) -> bytes:
    """The data as a chunk of HTTP's chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def reset(writer: asyncio.StreamWriter) -> None:
    """Resets the connection, unless the caller hung up first: with SO_LINGER of 0 s a close sends RST, not FIN."""
    if writer.transport.is_closing():
        return
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def hold() -> NoReturn:
    """Waits until it is cancelled."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody completes this future")
