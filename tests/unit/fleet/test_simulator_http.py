"""How the simulator reads a request, up to the bound of its body, and what it takes for none."""

import asyncio
from collections.abc import Callable

import pytest

from fleet.simulator import http
from fleet.simulator.vendor import HttpRequest

CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


async def read(rest: bytes) -> HttpRequest | None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"POST /v1/chat/completions HTTP/1.1\r\n" + rest)
    reader.feed_eof()
    return await http.read_request(http.Caller(reader))


def in_one(body: bytes) -> bytes:
    return b"content-length: %d\r\n\r\n%b" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return CHUNKED + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("sent", [in_one, in_chunks])
async def test_a_body_has_a_bound(monkeypatch: pytest.MonkeyPatch, sent: Callable[[bytes], bytes]) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 20)
    request = await read(sent(b"x" * 20))
    assert request
    assert request.body == b"x" * 20
    with pytest.raises(http.BadRequest, match="too large"):
        await read(sent(b"x" * 21))


@pytest.mark.parametrize("size", [b"5", b"005", b"5;name=value", b"5 ; name"])
async def test_a_chunk_says_its_size(size: bytes) -> None:
    request = await read(CHUNKED + size + b"\r\nHello\r\n0\r\n\r\n")
    assert request
    assert request.body == b"Hello"


@pytest.mark.parametrize("size", [b"", b"-5", b"+5", b"0_5", b"0x5", b"five", b"\xb2"])
async def test_what_is_no_size_is_refused(size: bytes) -> None:
    with pytest.raises(http.BadRequest, match="size of a chunk"):
        await read(CHUNKED + size + b"\r\nHello\r\n0\r\n\r\n")
    if size:
        with pytest.raises(http.BadRequest, match="content-length"):
            await read(b"content-length: " + size + b"\r\n\r\nHello")
