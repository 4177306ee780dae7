"""One tenant's answers push nobody else's out of what is kept for readers."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from contracts import streams
from fleet.simulator.tcp import listening
from tests.patience import PATIENCE_S
from tests.security.fleet import Fleet, Tenant
from tests.security.neighbours import MODEL, Neighbours

ANSWERS, BYTES = 190, 6_000_000
ENDS_MAY_TAKE_BYTES = streams.Sizes().max_result_bytes
"""The ends of requests are kept on disk, in a stream of a size of its own."""


@asynccontextmanager
async def _talkative() -> AsyncGenerator[int]:
    """A vendor that says six megabytes to everything."""
    message = {"role": "assistant", "content": "x" * BYTES}
    body = json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head % len(body) + body)
        await writer.drain()

    async with listening(talk) as port:
        yield port


async def test_answers_of_megabytes_push_no_other_tenants_events_out(
    fleet: Fleet, mallory: Tenant, other: Tenant, neighbours: Neighbours
) -> None:
    async with _talkative() as port, other.client() as reader, mallory.client() as talker:
        await fleet.use_vendor(mallory, "openai", f"http://127.0.0.1:{port}/v1")
        ended = await reader.complete(MODEL, "Hello")
        at_once = asyncio.Semaphore(4)

        async def ask() -> None:
            async with at_once:
                await talker.complete(MODEL, "Hello", deadline_s=PATIENCE_S)

        async with neighbours.unharmed(disk=ENDS_MAY_TAKE_BYTES):
            await asyncio.gather(*(ask() for _ in range(ANSWERS)))
        kept = [event async for event in reader.resume(ended.request_id)]

    assert kept[-1] == ended
