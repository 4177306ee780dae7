"""A server that a tenant controls may answer what it likes: every call ends in an error of the contract, soon and
without holding more than so much."""

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from contracts.errors import FleetError, InvalidRequest
from contracts.rpc import CountTokens
from fleet.simulator.tcp import listening
from tests.contract.adapters.vendor import LOCAL, Vendor
from workers.providers.shared.http import reply

MOST_BYTES = 96 * 1024**2
PIECE = 1024**2
ODD = {
    "a list": b"[" * 100_000 + b"]" * 100_000,
    "an object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "an error": b'{"error":' * 100_000 + b"{}" + b"}" * 100_000,
    "models": b'{"models":[' * 100_000 + b"]}" * 100_000,
    "a long number": b'{"input_tokens":' + b"9" * 100_000 + b"}",
    "a long number that is cut": b'{"input_tokens":' + b"9" * 100_000,
    "a large number": b'{"totalTokens":1e999999,"data":1e999999}',
}


@dataclass
class Hostile:
    url: str
    sent: int = 0


@asynccontextmanager
async def answering(
    status: int, kind: str, body: Callable[[], bytes | None], *, encoding: str = ""
) -> AsyncGenerator[Hostile]:
    """`body` gives the next piece; None: the end."""
    hostile = Hostile("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        encoded = f"content-encoding: {encoding}\r\n" if encoding else ""
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{encoded}connection: close\r\n\r\n".encode())
        while hostile.sent <= MOST_BYTES and (piece := body()) is not None:
            writer.write(piece)
            hostile.sent += len(piece)
            await writer.drain()

    async with listening(serve) as port:
        hostile.url = f"http://127.0.0.1:{port}"
        yield hostile


def once(body: bytes) -> Callable[[], bytes | None]:
    pieces = [body]
    return lambda: pieces.pop() if pieces else None


def calls(vendor: Vendor, url: str) -> dict[str, Callable[[], Awaitable[object]]]:
    target = vendor.target(base_url=url)
    question = CountTokens.model_validate({"model": vendor.model, "messages": [{"role": "user", "content": "Hi"}]})
    return {
        "complete": lambda: vendor.complete(target=target),
        "health": lambda: vendor.adapter.check_health(target),
        "models": lambda: vendor.adapter.get_supported_models(target),
        "count": lambda: vendor.adapter.count_tokens(question, model=vendor.model, target=target),
    }


@pytest.mark.parametrize("call", ["complete", "health", "models", "count"])
@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_that_nobody_can_read_is_an_error(vendor: Vendor, call: str, status: int) -> None:
    for name, body in ODD.items():
        for kind, wrapped in (("application/json", body), ("text/event-stream", b"data: " + body + b"\n\n")):
            async with answering(status, kind, once(wrapped)) as hostile:
                with suppress(FleetError):
                    await calls(vendor, hostile.url)[call]()
                    assert call != "complete", name


@pytest.mark.parametrize(
    ("call", "status", "kind"),
    [
        ("complete", 200, "application/json"),
        ("complete", 200, "text/event-stream"),
        ("complete", 500, "application/json"),
        ("models", 200, "application/json"),
    ],
)
async def test_an_answer_without_an_end_is_refused(vendor: Vendor, call: str, status: int, kind: str) -> None:
    async with answering(status, kind, lambda: b"[" + b" " * PIECE) as hostile:
        with suppress(FleetError):
            await calls(vendor, hostile.url)[call]()
        assert hostile.sent < MOST_BYTES


async def test_a_list_of_millions_of_models_is_none(vendor: Vendor) -> None:
    many = b",".join([b"{}"] * 1_000_000)
    async with answering(200, "application/json", once(b'{"data":[%b],"models":[%b]}' % (many, many))) as hostile:
        with pytest.raises(FleetError):
            await vendor.adapter.get_supported_models(vendor.target(base_url=hostile.url))


async def test_a_long_list_of_models_is_read(vendor: Vendor) -> None:
    listed = [{"id": f"m{n}", "name": f"m{n}", "model": f"m{n}", "description": "x" * 1000} for n in range(3000)]
    if vendor.name == "ollama":
        listed = listed[:1]
        listed[0]["description"] = "x" * 3_000_000
    async with answering(
        200, "application/json", once(json.dumps({"data": listed, "models": listed}).encode())
    ) as fair:
        assert await vendor.adapter.get_supported_models(vendor.target(base_url=fair.url))


async def test_a_code_behind_a_long_message_decides() -> None:
    body = json.dumps({"error": {"message": "x" * 50_000, "code": "model_not_found"}}).encode()
    async with answering(400, "application/json", once(body)) as fair, LOCAL.client() as client:
        assert (await client.get(fair.url)).json()["error"]["code"] == "model_not_found"


async def test_a_stream_without_an_end_is_refused(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each of its events is small."""
    monkeypatch.setattr(reply, "MAX_REPLY_BYTES", 4 * PIECE)
    event = (
        b'data: {"a": "' + b" " * 1000 + b'"}\n\n' if vendor.name != "ollama" else b'{"a": "' + b" " * 1000 + b'"}\n'
    )
    async with answering(200, "text/event-stream", lambda: event * 1000) as hostile:
        with pytest.raises(InvalidRequest, match="a reply of more than"):
            await vendor.complete(target=vendor.target(base_url=hostile.url))
        assert hostile.sent < 32 * PIECE


async def test_an_answer_counts_as_what_it_unpacks_to(vendor: Vendor) -> None:
    """A thousand bytes for each that is sent. What the sockets hold of them is not read.

    After a full flush a piece refers to nothing before it, so that the same one can be sent again and again.
    """
    packing = zlib.compressobj(wbits=31)
    head, again = (packing.compress(b" " * PIECE) + packing.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    pieces = iter([head])

    async with answering(200, "application/json", lambda: next(pieces, again), encoding="gzip") as hostile:
        with suppress(FleetError):
            await vendor.adapter.check_health(vendor.target(base_url=hostile.url))
        assert hostile.sent < 16 * PIECE
