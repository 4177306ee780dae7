"""A vendor that wishes nobody well: `python -m tests.security.hostile drip`, in a process of its own.

It prints its port, answers every POST in its way, as fast as it can and until the caller hangs up, and tells with
`GET /calls` how often it was asked.
"""

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import repeat

from fleet.simulator.tcp import listening
from tests.patience import PATIENCE_S

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_CHUNKED = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
_AT_ONCE = 1000
"""How much goes into one write: the attacker is not to be what is slow."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _drip() -> Iterator[bytes]:
    """One byte a chunk."""
    event = b"".join(_chunk(bytes([byte])) for byte in _EVENT % b"a")
    yield _CHUNKED
    yield from repeat(event * 20)


def _pings() -> Iterator[bytes]:
    """Signs of life and nothing else, each a line."""
    yield _CHUNKED
    yield from repeat(_chunk(b": ping\n\n" * _AT_ONCE))


def _small_events() -> Iterator[bytes]:
    yield _CHUNKED
    yield from repeat(_chunk(_EVENT % b"a") * _AT_ONCE)


def _huge_events() -> Iterator[bytes]:
    yield _CHUNKED
    yield from repeat(_chunk(_EVENT % (b"a" * 1024**2)))


def _one_line() -> Iterator[bytes]:
    """An event that does not end."""
    yield _CHUNKED
    yield _chunk(b"data: ")
    yield from repeat(_chunk(b"a" * 65536))


def _informational() -> Iterator[bytes]:
    """Interim answers (RFC 9110, section 15.2), and never the final one."""
    yield from repeat(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * _AT_ONCE)


def _packed_twice() -> Iterator[bytes]:
    """A gigabyte of blanks in a kilobyte."""
    yield _HEAD + b"content-encoding: gzip, gzip\r\nconnection: close\r\n\r\n"
    outer, inner = zlib.compressobj(wbits=31), zlib.compressobj(wbits=31)
    for piece in repeat(b" " * 1024**2, 1024):
        yield outer.compress(inner.compress(piece))
    yield outer.compress(inner.flush()) + outer.flush()


def _silent() -> Iterator[bytes]:
    yield from ()


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "drip": _drip,
    "pings": _pings,
    "small_events": _small_events,
    "huge_events": _huge_events,
    "one_line": _one_line,
    "informational": _informational,
    "packed_twice": _packed_twice,
    "silent": _silent,
}


@asynccontextmanager
async def hostile_vendor(kind: str) -> AsyncGenerator[int]:
    """Its port."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, kind, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
    finally:
        process.kill()
        await process.wait()


async def calls_at(port: int) -> int:
    """How often a hostile vendor was asked for something."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /calls HTTP/1.1\r\n\r\n")
        return int(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


async def _serve(kind: str) -> None:
    calls = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /calls"):
            writer.write(str(calls).encode())
            return
        calls += 1
        for piece in KINDS[kind]():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # draining does not, as long as there is room
        while await reader.read(65536):
            pass

    async with listening(talk) as port:
        print(port, flush=True)  # noqa: T201 - whoever started it waits for this
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
