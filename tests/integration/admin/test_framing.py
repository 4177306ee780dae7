"""Requests whose end two readers could see at different places, at a server."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from admin_api.http.framing import StrictHttp
from tests.unit.admin.test_framing import CHUNKED, HEAD, LENGTHS, LINES

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await Response(scope["path"].encode() + await Request(scope, receive).body())(scope, receive, send)


@pytest_asyncio.fixture
async def port() -> AsyncGenerator[int]:
    server = uvicorn.Server(uvicorn.Config(application, http=StrictHttp, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]), name="http")
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def answers(port: int, said: bytes) -> bytes:
    """All that the server answers until it hangs up; nothing where it did so before it had read everything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "headers", [*LENGTHS, *LINES, b"Content-Length : 2\r\n", b"Transfer-Encoding : chunked\r\n", b"A: \0\r\n"]
)
async def test_a_request_of_two_readings_is_answered_with_400_and_nothing_after_it(port: int, headers: bytes) -> None:
    alone = await answers(port, HEAD + headers + b"\r\n0\r\n\r\n" + SMUGGLED)
    after_another = await answers(port, HEAD + b"Content-Length: 1\r\n\r\na" + HEAD + headers + b"\r\n\r\n" + SMUGGLED)

    assert alone.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in alone.lower()
    assert after_another.startswith(b"HTTP/1.1 200 ")
    assert after_another.count(b"HTTP/1.1 400 ") == 1
    assert b"/smuggled" not in alone + after_another


@pytest.mark.parametrize("sent", [b"\r\n2\nab\n0\n\n", b"\r\n0x2\r\nab\r\n0\r\n\r\n", b"\r\n2\r\nabXX0\r\n\r\n"])
async def test_chunks_that_are_not_framed_as_chunks_end_the_connection(port: int, sent: bytes) -> None:
    answer = await answers(port, HEAD + CHUNKED + sent + SMUGGLED)

    assert b"200 OK" not in answer
    assert b"/smuggled" not in answer


async def test_a_body_in_crumbs_is_broken_off_and_one_in_pieces_is_taken(port: int) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(900):
            yield b"x" * 1024

    crumbs = await answers(port, HEAD + CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 100_000)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        whole = await client.post("/", content=pieces())

    assert b"200 OK" not in crumbs
    assert whole.content == b"/" + b"x" * 1024 * 900


async def test_requests_of_one_connection_are_answered_in_turn(port: int) -> None:
    plain, chunked = HEAD + b"Content-Length: 2\r\n\r\nab", HEAD + CHUNKED + b"\r\n2\r\ncd\r\n0\r\n\r\n"

    answer = await answers(port, (plain + chunked) * 10)

    assert (answer.count(b"/xab"), answer.count(b"/xcd")) == (10, 10)
