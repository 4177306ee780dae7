"""Requests whose end two readers could see at different places."""

import asyncio
import time
from collections.abc import Callable

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from admin_api.http.framing import StrictHttp, problem

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 2\r\n\r\nab",
        HEAD + b"content-length:2\t\r\n\r\n\n\r \n",
        HEAD + CHUNKED + b"\r\n2;name=value\r\nab\r\n0\r\n\r\n",
        HEAD + b"\r\n",
        HEAD[:-1],
        b"\r\n" + HEAD + b"\r\n",
        b"GET",
        b"",
    ],
)
def test_what_every_reader_reads_alike_is_taken(request_: bytes) -> None:
    assert problem(request_) is None


LENGTHS = [
    CHUNKED + b"Content-Length: 4\r\n",
    b"Content-Length: 4\r\n" + CHUNKED,
    b"Content-Length: 2\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\ncontent-LENGTH: 3\r\n",
    b"Content-Length: 2, 2\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length: 0x2\r\n",
    b"Content-Length: 1_0\r\n",
    b"Content-Length: \r\n",
    CHUNKED + CHUNKED,
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
]
LINES = [
    b"A: b\nC: d\r\n",
    b"A: b\rC: d\r\n",
    b"A: b\r\n c\r\n",
    b"Transfer-Encoding:\r\n\tchunked\r\n",
    b"A: b\n",
]


@pytest.mark.parametrize("headers", [*LENGTHS, *LINES, b"a: b\r\n" * 300, b"A: " + b"b" * 70_000 + b"\r\n"])
def test_what_can_be_read_in_two_ways_is_refused(headers: bytes) -> None:
    assert problem(HEAD + headers + b"\r\n") is not None
    assert problem(b"\r\n" + HEAD + headers + b"\r\nab") is not None


class Said(asyncio.Transport):
    """A connection that keeps what is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def close(self) -> None:
        pass


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Is never called in these tests."""


@pytest_asyncio.fixture
async def send() -> Callable[[bytes, int], bytes]:
    """Sends bytes in pieces of a size over a connection of their own, and returns what is answered at once."""
    config = uvicorn.Config(nothing, http=StrictHttp, lifespan="off", log_config=None)
    config.load()

    def sent(data: bytes, size: int) -> bytes:
        protocol, transport = StrictHttp(config, ServerState(), {}, asyncio.get_running_loop()), Said()
        protocol.connection_made(transport)
        for start in range(0, len(data), size):
            protocol.data_received(data[start : start + size])
            if transport.data:
                break
        return transport.data

    return sent


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("headers", [*LENGTHS, *LINES])
async def test_it_is_refused_in_whatever_pieces_it_comes(
    send: Callable[[bytes, int], bytes], headers: bytes, size: int
) -> None:
    assert send(HEAD + headers + b"\r\n", size).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r", b"\r\n\r\n"])
async def test_nothing_comes_before_a_request(send: Callable[[bytes, int], bytes], empty: bytes) -> None:
    assert send(empty + HEAD + b"\r\n", 1).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("size", [16, 70_000])
async def test_a_head_that_is_too_large_is_refused_before_its_end(
    send: Callable[[bytes, int], bytes], size: int
) -> None:
    assert send(HEAD + b"A: " + b"b" * 70_000, size).startswith(b"HTTP/1.1 400 ")


async def test_a_large_head_in_crumbs_costs_no_more_than_its_bytes(send: Callable[[bytes, int], bytes]) -> None:
    before = time.process_time()

    assert send(HEAD + (b"A: " + b"b" * 295 + b"\r\n") * 195, 16) == b""

    assert time.process_time() - before < 0.5, "1.4 s where each piece has the whole head searched anew; 10 ms else"
