"""A reply's bytes, as they arrive and unpacked."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from runtime.fair_queue import FairQueue, Flow
from workers.providers.shared.http.transport import Httpx2Reply

TEXT = b"data: one\n\n" * 50


class Body(httpx2.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def read(body: bytes, *, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    response = httpx2.Response(200, stream=Body(pieces))
    response.request = httpx2.Request("POST", "https://vendor.example")
    reply = Httpx2Reply(response, Flow(FairQueue(), "tenant"))
    try:
        return b"".join([part async for part in parts_of(reply)])
    finally:
        await reply.aclose()


async def parts_of(reply: Httpx2Reply) -> AsyncIterator[bytes]:
    while part := await reply.read():
        yield part


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_body_is_read_whole_whatever_it_comes_in(size: int) -> None:
    assert await read(TEXT, size=size) == TEXT
