"""The path on which every reply is read: what ends it, and what still comes then."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from contracts.errors import ProviderUnavailable, StreamInterrupted
from contracts.providers import Timeouts
from contracts.requests import AssistantMessage
from workers.providers.anthropic.errors import ERRORS as ANTHROPIC
from workers.providers.anthropic.reply import MessageReader
from workers.providers.base import Chunk, Finish, Gathering, StreamItem
from workers.providers.google.errors import ERRORS as GOOGLE
from workers.providers.google.reply import ReplyReader
from workers.providers.ollama.errors import ERRORS as OLLAMA
from workers.providers.ollama.reply import OllamaReader
from workers.providers.openai.errors import ERRORS as OPENAI
from workers.providers.openai.reply import ChatReader
from workers.providers.shared.http.reading import MAX_KEPT_LEVELS, read
from workers.providers.shared.http.sse import MAX_EVENT_BYTES
from workers.providers.shared.http.time_limits import TimeLimits
from workers.providers.shared.http.transport import ConnectionBroken
from workers.providers.shared.replies.reader import Reader


class BrokenOff:
    """A reply whose connection breaks after what it holds."""

    headers: Mapping[str, str] = {}

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read(self) -> bytes:
        if not self._pieces:
            raise ConnectionBroken("reset by peer")
        return self._pieces.pop(0)

    def charge(self, work_s: float) -> None: ...

    async def drain(self) -> None: ...

    async def aclose(self) -> None: ...


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}).encode() + b"\n\n"


def openai() -> Reader:
    return ChatReader(provider="openai", classify=lambda body: OPENAI.from_body(body, provider="openai", key=None))


def anthropic() -> Reader:
    return MessageReader(classify=lambda body: ANTHROPIC.from_body(body, provider="anthropic", key=None))


def google() -> Reader:
    return ReplyReader(provider="google", classify=lambda body: GOOGLE.from_body(body, provider="google", key=None))


async def items_of(*pieces: bytes, reader: Reader | None = None) -> list[StreamItem]:
    limits = TimeLimits(Timeouts(), time_left_s=60, provider="openai")
    return [item async for item in read(BrokenOff(*pieces), reader or openai(), limits=limits, provider="openai")]


def ollama() -> Reader:
    classify = partial(OLLAMA.from_body, provider="ollama", key=None)
    return OllamaReader(classify=classify, estimate_input=lambda: 7)


def azure() -> Reader:
    return ChatReader(provider="azure", classify=lambda body: OPENAI.from_body(body, provider="azure", key=None))


READERS = [openai, azure, anthropic, google, ollama]
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


# msgspec refuses more digits than Python reads in another way than what is no JSON.
CUT = [b'{"n": 12, "m": ', b'{"n": ' + b"9" * 5000 + b', "m": ', b'{"n": ' + b"9" * 5000]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", CUT, ids=["short", "long", "cut in the number"])
def test_an_event_that_is_cut_interrupts(reader: Callable[[], Reader], text: bytes) -> None:
    chat = reader()
    assert chat.feed(b"event: x\ndata: " + text + b"\n\n") is None
    assert isinstance(chat.error, StreamInterrupted)
    assert chat.error.message.endswith("that is no JSON")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", CUT, ids=["short", "long", "cut in the number"])
def test_a_whole_reply_that_is_cut_is_not_finished(reader: Callable[[], Reader], text: bytes) -> None:
    chat = reader()
    assert chat.feed(text) is None
    assert chat.end() is None
    assert (chat.finished, chat.error) == (False, None)


@pytest.mark.parametrize("reader", READERS)
async def test_an_event_without_an_end_fails_before_it_fills_the_memory(reader: Callable[[], Reader]) -> None:
    begun = b"data: " if reader is not ollama else b""
    with pytest.raises(ProviderUnavailable, match=f"openai sent an? \\w+ of more than {MAX_EVENT_BYTES} bytes"):
        await items_of(begun + b"x" * (MAX_EVENT_BYTES + 1), reader=reader())


NESTED = {
    "openai": (
        openai,
        """data: {"choices": [{"delta": {"content": "a", "reasoning_details": [{"x": @}]}, "finish_reason": "stop"}]}

data: [DONE]

""",
    ),
    "anthropic": (
        anthropic,
        """data: {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}}

data: {"type": "content_block_start", "index": 1, "content_block": {"type": "new_tool_result", "content": @}}

data: {"type": "message_stop"}

""",
    ),
    "google": (
        google,
        """data: {"candidates": [{"content": {"parts": [{"text": "a"}, {"newPart": @}]}, "finishReason": "STOP"}]}

data: [DONE]

""",
    ),
}


@pytest.mark.parametrize("levels", [MAX_KEPT_LEVELS - 10, MAX_KEPT_LEVELS, 180, 400])
@pytest.mark.parametrize("name", NESTED)
async def test_an_answer_is_whole_although_nobody_could_send_back_what_goes_with_it(name: str, levels: int) -> None:
    reader, events = NESTED[name]
    *chunks, finish = await items_of(events.replace("@", "[" * levels + "]" * levels).encode(), reader=reader())
    assert isinstance(finish, Finish)
    assert (finish.provider_data is None) == (levels >= MAX_KEPT_LEVELS)
    assert any("provider_data was left out" in warning for warning in finish.warnings) == (levels >= MAX_KEPT_LEVELS)

    gathering = Gathering()
    for chunk in chunks:
        if isinstance(chunk, Chunk):
            gathering.add(chunk)
    message = gathering.message(finish.provider_data)
    assert message.content == "a"
    assert AssistantMessage.model_validate_json(message.to_json()) == message
