"""A reply's bytes, as they arrive and unpacked."""

import gzip
import zlib
from collections.abc import AsyncIterator

import httpx2
import pytest

from workers.providers.shared.http import transport
from workers.providers.shared.http.transport import ConnectionBroken, Httpx2Reply

TEXT = b"data: one\n\n" * 50


class Body(httpx2.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def read(body: bytes, *, encoding: str, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    response = httpx2.Response(200, headers={"content-encoding": encoding}, stream=Body(pieces))
    response.request = httpx2.Request("POST", "https://vendor.example")
    reply = Httpx2Reply(response)
    try:
        return b"".join([part async for part in parts_of(reply)])
    finally:
        await reply.aclose()


async def parts_of(reply: Httpx2Reply) -> AsyncIterator[bytes]:
    while part := await reply.read():
        yield part


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (TEXT, "identity"),
        (zlib.compress(TEXT), "deflate"),
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT), " GZIP "),
        (gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]), "gzip"),
        (gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:]), "gzip"),
        (gzip.compress(TEXT) + b"\0" * 20, "gzip"),
    ],
    ids=["plain", "deflate", "gzip", "gzip in capitals", "two members", "an empty member", "padding"],
)
async def test_a_body_is_unpacked_whatever_it_is_packed_in(body: bytes, encoding: str, size: int) -> None:
    assert await read(body, encoding=encoding, size=size) == TEXT


async def test_a_member_is_unpacked_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_UNPACKED_BYTES", 10)
    assert await read(gzip.compress(TEXT) * 2, encoding="gzip", size=10_000) == TEXT * 2


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(TEXT)[:12] + b"x" * 100])
async def test_what_cannot_be_unpacked_breaks_the_reply(body: bytes) -> None:
    with pytest.raises(ConnectionBroken):
        await read(body, encoding="gzip", size=10_000)
