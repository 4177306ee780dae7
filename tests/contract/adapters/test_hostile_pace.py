"""A server that a tenant controls may send as fast, as much and as oddly as it likes: it does not keep the worker from
the calls of others, and its reply is broken off where no vendor sends such a thing.

How long the event loop was held is measured in CPU time of its thread, so that other processes do not count; the
server runs in the same thread and counts as well.
"""

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from contracts.errors import FleetError, InvalidRequest, ProviderUnavailable, StreamInterrupted
from contracts.providers import Timeouts
from fleet.simulator import Script
from fleet.simulator.tcp import listening
from runtime.tasks import end
from tests.contract.adapters.vendor import Vendor

HELD_S = 0.25
"""Far more than any reply holds the loop, which is 20 ms, and far less than each of these did."""
MOST_BYTES = 64 * 1024**2
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = STREAM + b"transfer-encoding: chunked\r\n\r\n"
GZIP = STREAM + b"content-encoding: gzip\r\n\r\n"


def flushed(body: bytes) -> tuple[bytes, bytes]:
    """A gzip's beginning, and a piece of it that can be repeated, because it refers to nothing before it."""
    packing = zlib.compressobj(9, wbits=31)
    head, again = (packing.compress(body) + packing.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return head, again


BLANK_HEAD, BLANK_AGAIN = flushed(b"\n" * 1024**2)

ENDLESS = {
    "a byte a chunk": (CHUNKED, b"1\r\n \r\n"),
    "a byte a chunk with an extension": (CHUNKED, b"1;" + b"a" * 40_000 + b"\r\n \r\n"),
    "interim responses": (b"", b"HTTP/1.1 100 \r\n\r\n"),
    "interim responses with headers": (b"", b"HTTP/1.1 103 X\r\nlink: " + b"a" * 1000 + b"\r\n\r\n"),
    "headers": (STREAM, b"a:\r\n"),
    "a header": (STREAM + b"a: ", b"a"),
    "trailers": (CHUNKED + b"1\r\n \r\n0\r\n", b"a:b\r\n"),
    "blank lines": (STREAM + b"\r\n", b"\n"),
    "comments": (STREAM + b"\r\n", b":\n\n"),
    "empty data": (STREAM + b"\r\n", b"data:\n"),
    "packed blank lines": (GZIP + BLANK_HEAD, BLANK_AGAIN),
    "empty members of a gzip": (GZIP, gzip.compress(b"")),
    "a line": (STREAM + b"\r\n", b" "),
}
"""What comes first, and what is repeated without an end."""

MANY = {
    "objects": b'{"choices":[{"delta":{"content":[' + b"{}," * 2_000_000 + b"{}]}}]}",
    "choices": b'{"choices":[' + b"{}," * 2_000_000 + b"{}]}",
    "candidates": b'{"candidates":[' + b"{}," * 2_000_000 + b"{}]}",
    "numbers that are none": b'{"choices":[' + b"NaN," * 1_500_000 + b"{}]}",
    "calls": b'{"message":{"tool_calls":[' + b'{"function":{"name":"a"}},' * 200_000 + b"{}]}}",
    "blocks": b'{"type":"message","content":[' + b'{"type":"text","text":"a"},' * 200_000 + b"{}]}",
    "objects in a row": b'{"a":1}' * 1_000_000,
    "brackets in a text": b'{"message":{"content":"' + b"[" * 6_000_000 + b'"}}',
}
"""JSON of 6 MB that takes long to read."""


class Held:
    """The longest time for which nobody else had the loop."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.001)
            self.seconds = max(self.seconds, time.thread_time() - begun)


@asynccontextmanager
async def watched() -> AsyncGenerator[Held]:
    held = Held()
    watching = asyncio.create_task(held.watch(), name="watch")
    try:
        yield held
    finally:
        await end(watching)


@asynccontextmanager
async def answering(first: bytes, again: bytes) -> AsyncGenerator[str]:
    """The URL of a server that says `first`, and `again` until it is hung up on."""
    burst = again * max(16 * 1024 // len(again), 1) if again else b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(first), 65_536):
            writer.write(first[at : at + 65_536])
            await writer.drain()
        sent = 0
        while burst and sent < MOST_BYTES:
            writer.write(burst)
            await writer.drain()
            sent += len(burst)

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_reply_without_an_end_is_broken_off(vendor: Vendor, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.paced_stream.SHORT_LINES", 20_000)  # in a second in place of half a minute
    async with answering(*ENDLESS[what]) as url, watched() as held:
        with pytest.raises((StreamInterrupted, ProviderUnavailable, InvalidRequest)):
            await vendor.complete(target=vendor.target(base_url=url))
    assert held.seconds < HELD_S


@pytest.mark.parametrize("what", MANY)
async def test_no_event_holds_the_loop(vendor: Vendor, what: str) -> None:
    for before, behind in ((b"", b""), (b"data: ", b"\n\n"), (b"", b"\n")):
        first = STREAM + b"connection: close\r\n\r\n" + before + MANY[what] + behind
        async with answering(first, b"") as url, watched() as held:
            with pytest.raises(FleetError):
                await vendor.complete(target=vendor.target(base_url=url))
        assert held.seconds < HELD_S, (before, behind)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,gzip,gzip", "deflate, gzip", "br, gzip"])
async def test_a_reply_that_is_packed_twice_is_refused(vendor: Vendor, encoding: str) -> None:
    packed = gzip.compress(gzip.compress(bytes(64 * 1024**2)))
    head = STREAM + b"content-encoding: " + encoding.encode() + b"\r\n\r\n"
    async with answering(head + packed, b"") as url, watched() as held:
        with pytest.raises((StreamInterrupted, ProviderUnavailable)):
            await vendor.complete(target=vendor.target(base_url=url))
    assert held.seconds < HELD_S


@pytest.mark.parametrize("charset", ["utf-8", "punycode", "idna", "utf-7", "raw_unicode_escape", "no such thing"])
async def test_no_body_of_an_error_holds_the_loop(vendor: Vendor, charset: str) -> None:
    head = b"HTTP/1.1 400 X\r\nconnection: close\r\ncontent-type: application/json; charset=" + charset.encode()
    for body in (b'{"error":{"message":"x","a":[' + b"[]," * 2_000_000, b"a" * 2_000_000 + b"-" + b"b9" * 1_000_000):
        async with answering(head + b"\r\n\r\n" + body, b"") as url, watched() as held:
            with pytest.raises(FleetError):
                await vendor.complete(target=vendor.target(base_url=url))
        assert held.seconds < HELD_S


async def test_hostile_replies_leave_the_loop_to_honest_ones(vendor: Vendor) -> None:
    """Six of them are always ready, and are still there when the honest one is over."""
    event = b'{"choices":[{"delta":{"content":"a"}}]}'
    line = event + b"\n" if vendor.name == "ollama" else b"data: " + event + b"\n\n"
    vendor.says(Script(chunks=50, between_s=0.001))
    patient = Timeouts(connect_s=5, first_token_s=60, idle_s=60, total_s=60)

    async def hostile(url: str) -> None:
        await vendor.complete(target=vendor.target(base_url=url, timeouts=patient), time_left_s=60)

    async with answering(CHUNKED, b"%x\r\n%b\r\n" % (len(line), line)) as url, watched() as held:
        calls = [asyncio.create_task(hostile(url), name=f"hostile {number}") for number in range(6)]
        for _ in range(3):
            assert (await vendor.complete()).message.content
        running = [call for call in calls if not call.done()]
        await end(*calls)
    assert len(running) == len(calls)
    assert held.seconds < HELD_S


async def test_a_fast_reply_of_small_chunks_is_read_whole(vendor: Vendor) -> None:
    """Ten thousand tokens that were all there at once, an HTTP chunk each."""
    vendor.says(Script(chunks=10_000))
    said = (await vendor.complete()).message.content or ""
    assert len(said.split()) == 10_000
