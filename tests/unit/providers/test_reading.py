"""The path on which every reply is read: what ends it, and what still comes then."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

import pytest

from contracts.errors import InvalidRequest, StreamInterrupted
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
from workers.providers.shared.http.client import ConnectionBroken, HttpReply
from workers.providers.shared.http.reading import MAX_KEPT_LEVELS, receive
from workers.providers.shared.http.sse import MAX_EVENT_BYTES
from workers.providers.shared.http.time_limits import TimeLimits
from workers.providers.shared.replies.reader import Reader


class Arriving:
    """A reply whose pieces arrive at once; then its connection breaks, unless `how` it ends is another."""

    status = 200

    def __init__(self, *pieces: bytes, ends_with: Exception | None, headers: Mapping[str, str] | None = None) -> None:
        self.headers: Mapping[str, str] = headers or {}
        self._pieces = pieces
        self._ends_with = ends_with
        self.closed = False
        self.delivering: asyncio.Task[None] | None = None

    def deliver(
        self, take: Callable[[bytes], Awaitable[None] | None], ended: Callable[[Exception | None], None]
    ) -> None:
        async def deliver() -> None:
            for piece in self._pieces:
                try:
                    if (until_taken := take(piece)) is not None:
                        await until_taken
                except Exception as exc:  # noqa: BLE001 - of the taker, to whom it is given
                    ended(exc)
                    return
            ended(self._ends_with)

        self.delivering = asyncio.create_task(deliver())

    def close(self) -> None:
        self.closed = True


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}).encode() + b"\n\n"


def openai() -> Reader:
    return ChatReader(provider="openai", classify=lambda body: OPENAI.from_body(body, provider="openai", key=None))


def anthropic() -> Reader:
    return MessageReader(classify=lambda body: ANTHROPIC.from_body(body, provider="anthropic", key=None))


def google() -> Reader:
    return ReplyReader(provider="google", classify=lambda body: GOOGLE.from_body(body, provider="google", key=None))


async def items_of(*pieces: bytes, reader: Reader | None = None) -> list[StreamItem | Finish]:
    """What a reply says. Its connection breaks behind the pieces, unless the last one is empty."""
    broken = None if pieces[-1:] == (b"",) else ConnectionBroken("reset by peer")
    limits = TimeLimits(Timeouts(), time_left_s=60, provider="openai")
    reply, items = Arriving(*filter(None, pieces), ends_with=broken), list[StreamItem | Finish]()
    finish = await receive(
        cast(HttpReply, reply), reader or openai(), limits=limits, provider="openai", take=items.append
    )
    return [*items, finish]


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
    begun = b"data: " if reader is not ollama else b'{"a":'
    with pytest.raises(InvalidRequest, match=f"openai sent an? \\w+ of more than {MAX_EVENT_BYTES} bytes"):
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


@pytest.mark.parametrize("name", NESTED)
async def test_an_answer_is_whole_although_more_goes_with_it_than_may_be_kept(name: str) -> None:
    reader, events = NESTED[name]
    *again, end = events.replace("@", json.dumps("x" * 1024**2)).strip().split("\n\n")
    if name == "google":
        again, end = [json_event({"candidates": [{"content": {"parts": [{"newPart": "x" * 1024**2}]}}]})], events
        end = end.replace("@", "1")
    said = "\n\n".join([*again * 10, end, ""])
    *chunks, finish = await items_of(said.encode() + b"\n", reader=reader())

    assert isinstance(finish, Finish)
    assert finish.provider_data is None
    assert "openai wants back more than a message holds; provider_data was left out" in finish.warnings
    assert any(isinstance(chunk, Chunk) and "a" in chunk.text for chunk in chunks)


def json_event(said: object) -> str:
    return f"data: {json.dumps(said)}"


async def test_a_list_that_is_too_long_is_refused_and_never_cut() -> None:
    def content(parts: int) -> bytes:
        return event({"content": [{"type": "text", "text": "a"}] * parts}, "stop") + b"data: [DONE]\n\n"

    chunk, _ = await items_of(content(5000))
    assert isinstance(chunk, Chunk)
    assert len(chunk.text) == 5000
    with pytest.raises(InvalidRequest, match="a list of more than 10000 items"):
        await items_of(content(10_001))


async def test_gemini_may_say_thousands_of_parts_at_once() -> None:
    def candidate(parts: int) -> bytes:
        said = {"candidates": [{"content": {"parts": [{"text": "a"}] * parts}, "finishReason": "STOP"}]}
        return f"{json_event(said)}\n\n".encode()

    chunk, _ = await items_of(candidate(5000), reader=google())
    assert isinstance(chunk, Chunk)
    assert len(chunk.text) == 5000
    with pytest.raises(InvalidRequest, match="a list of more than 10000 items"):
        await items_of(candidate(10_001), reader=google())


async def test_a_reply_may_have_a_block_for_each_token() -> None:
    def blocks(count: int) -> bytes:
        begun = [
            json_event({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": "a"}})
            for index in range(count)
        ]
        return "\n\n".join([*begun, json_event({"type": "message_stop"}), "\n"]).encode()

    chunk, _ = await items_of(blocks(10_000), reader=anthropic())
    assert isinstance(chunk, Chunk)
    assert len(chunk.text) == 10_000
    with pytest.raises(InvalidRequest, match="more blocks than any reply has"):
        await items_of(blocks(20_001), reader=anthropic())


async def test_a_whole_reply_with_the_probabilities_of_its_tokens_is_read() -> None:
    token = {"token": "abc", "logprob": -1.5, "bytes": [97, 98, 99]}
    logprobs = {"content": [{**token, "top_logprobs": [token] * 20}] * 2000}
    choice = {"index": 0, "message": {"content": "a" * 2000}, "logprobs": logprobs, "finish_reason": "stop"}
    chunk, _ = await items_of(json.dumps({"choices": [choice]}).encode(), b"")
    assert isinstance(chunk, Chunk)
    assert len(chunk.text) == 2000


@pytest.mark.parametrize("mebibytes", [8, 18])
async def test_an_event_of_an_image_is_read(mebibytes: int) -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "QUJD" * (mebibytes * 1024**2 // 4)}}
    said = {"candidates": [{"content": {"parts": [{"text": "a"}, image]}, "finishReason": "STOP"}]}
    if mebibytes == 8:
        said |= {"avgLogprobs": float("nan")}
    data = f"{json_event(said)}\n\n".encode()
    pieces = (data[at : at + 1024**2] for at in range(0, len(data), 1024**2))
    chunk, finish = await items_of(*pieces, reader=google())
    assert isinstance(chunk, Chunk)
    assert chunk.text == "a"
    assert isinstance(finish, Finish)
    assert finish.finish_reason == "stop"


async def test_an_end_that_is_taken_after_the_deadline_is_said_once() -> None:
    """Of a body in one piece, whose text the reader says when it is over."""
    loop = asyncio.get_running_loop()
    limits = TimeLimits(Timeouts(), time_left_s=0.05, provider="openai")
    body = {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}
    taken, items = loop.create_future(), list[StreamItem]()

    def take(item: StreamItem) -> Awaitable[None] | None:
        if not isinstance(item, Chunk):
            return None
        items.append(item)
        return taken

    reply = Arriving(json.dumps(body).encode(), ends_with=None, headers={"content-type": "application/json"})
    receiving = asyncio.create_task(
        receive(cast(HttpReply, reply), openai(), limits=limits, provider="openai", take=take)
    )
    loop.call_at(limits.ends_at + 0.05, taken.set_result, None)

    finish = await receiving
    assert finish.finish_reason == "stop"
    assert [item.text for item in items if isinstance(item, Chunk)] == ["Hello"]
