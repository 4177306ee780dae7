"""The path on which every reply is read: what ends it, and what still comes then."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from contracts.errors import StreamInterrupted
from contracts.providers import Timeouts
from workers.providers import openai_errors
from workers.providers.base import Chunk, Finish, StreamItem
from workers.providers.openai_chat import ChatReader
from workers.providers.reading import read
from workers.providers.time_limits import TimeLimits
from workers.providers.transport import ConnectionBroken


class BrokenOff:
    """A reply whose connection breaks after what it holds."""

    headers: Mapping[str, str] = {}

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read(self) -> bytes:
        if not self._pieces:
            raise ConnectionBroken("reset by peer")
        return self._pieces.pop(0)

    async def drain(self) -> None: ...

    async def aclose(self) -> None: ...


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}).encode() + b"\n\n"


async def items_of(*pieces: bytes) -> list[StreamItem]:
    reader = ChatReader(
        provider="openai", classify=lambda body: openai_errors.from_body(body, provider="openai", key=None)
    )
    limits = TimeLimits(Timeouts(), time_left_s=60, provider="openai")
    return [item async for item in read(BrokenOff(*pieces), reader, limits=limits, provider="openai")]


CALL = event({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "now", "arguments": ""}}]})


async def test_a_connection_that_breaks_behind_the_end_marker_ends_the_reply() -> None:
    chunk, finish = await items_of(CALL, event({}, "tool_calls"), b'data: {"usage": {')
    assert isinstance(chunk, Chunk)
    assert [(call.name, call.arguments) for call in chunk.tool_calls] == [("now", "{}")]
    assert isinstance(finish, Finish)
    assert finish.finish_reason == "tool_calls"


async def test_a_connection_that_breaks_before_the_end_marker_interrupts() -> None:
    with pytest.raises(StreamInterrupted, match="reset by peer"):
        await items_of(CALL)
