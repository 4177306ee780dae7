"""One odd value anywhere in a reply costs nothing but what it stands for, in every format that vendors speak.

Each event of a reply here has a word of its own. Whatever else one of its fields is replaced with, the words that do
not stand in that field arrive.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.requests import AssistantMessage
from workers.providers.anthropic.errors import ERRORS as ANTHROPIC_ERRORS
from workers.providers.anthropic.reply import MessageReader
from workers.providers.base import Finish, Gathering
from workers.providers.google.errors import ERRORS as GOOGLE_ERRORS
from workers.providers.google.reply import ReplyReader
from workers.providers.ollama.errors import ERRORS as OLLAMA_ERRORS
from workers.providers.ollama.reply import OllamaReader
from workers.providers.shared.replies.reader import Reader

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    7,
    -1,
    2**64 - 1,
    5.5,
    float("nan"),
    float("inf"),
    "",
    "odd",
    "\ud83d",
    [],
    [None],
    ["odd"],
    {},
    {"odd": [None]},
]
WORDS = re.compile("wine|beer|milk|cola|chai|soda")
Path = tuple[str | int, ...]

ANTHROPIC = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m1",
            "content": [],
            "stop_reason": None,
            "usage": {
                "input_tokens": 3,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_1h_input_tokens": 5},
                "output_tokens": 1,
                "service_tier": "standard",
            },
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "wine"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "beer", "citations": []}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "milk"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": {"url": "u"}}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t1", "name": "order", "input": {}, "caller": {"type": "direct"}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"x": "cola'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ' chai"}'}},
    {"type": "content_block_stop", "index": 2},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_details": None},
        "usage": {
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
            "iterations": [{"type": "compaction", "model": "m2", "input_tokens": 7, "output_tokens": 1}],
        },
    },
    {"type": "message_stop"},
]
GOOGLE = [
    {
        "candidates": [{"content": {"parts": [{"text": "wine", "thought": True}], "role": "model"}, "index": 0}],
        "promptFeedback": {"safetyRatings": []},
        "modelVersion": "m1",
        "responseId": "r1",
    },
    {
        "candidates": [
            {"content": {"parts": [{"text": "beer"}, {"text": "milk", "thoughtSignature": "c2ln"}]}, "index": 0}
        ],
        "usageMetadata": {"promptTokenCount": 4, "cachedContentTokenCount": 1, "trafficType": "ON_DEMAND"},
    },
    {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"functionCall": {"id": "c1", "name": "order", "args": {"x": "cola"}}},
                        {"executableCode": {"language": "PYTHON", "code": "1"}},
                        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                        {"text": "chai"},
                    ]
                },
                "finishReason": "STOP",
                "index": 0,
            }
        ],
        "usageMetadata": {"candidatesTokenCount": 5, "thoughtsTokenCount": 2, "toolUsePromptTokenCount": 1},
    },
]
OLLAMA = [
    {"model": "m1", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "thinking": "wine"}},
    {"model": "m1", "message": {"role": "assistant", "content": "beer"}, "done": False},
    {
        "model": "m1",
        "message": {
            "role": "assistant",
            "content": "milk",
            "tool_calls": [
                {"id": "c1", "function": {"index": 0, "name": "order", "arguments": {"x": "cola"}}},
                {"function": {"name": "order", "arguments": '{"x": "chai"}'}},
            ],
        },
        "done": False,
    },
    {
        "model": "m1",
        "message": {"role": "assistant", "content": "soda"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 3,
        "eval_count": 4,
    },
]


def named_sse(events: list[Any]) -> bytes:
    """Anthropic names each event twice."""
    names = [event["type"] for event in ANTHROPIC]
    pairs = zip(names, events, strict=True)
    return "".join(f"event: {name}\ndata: {json.dumps(event)}\n\n" for name, event in pairs).encode()


def sse(events: list[Any]) -> bytes:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


def ndjson(events: list[Any]) -> bytes:
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def anthropic() -> Reader:
    return MessageReader(classify=lambda body: ANTHROPIC_ERRORS.from_body(body, provider="anthropic", key=None))


def google() -> Reader:
    return ReplyReader(
        provider="google", classify=lambda body: GOOGLE_ERRORS.from_body(body, provider="google", key=None)
    )


def ollama() -> Reader:
    return OllamaReader(
        classify=lambda body: OLLAMA_ERRORS.from_body(body, provider="ollama", model="m1", key=None),
        estimate_input=lambda: 77,
    )


@dataclass(frozen=True)
class Format:
    """A reply in a vendor's format, and how it is written and read."""

    events: list[dict[str, Any]]
    written: Callable[[list[Any]], bytes]
    reader: Callable[[], Reader]
    other_meaning: tuple[str, type | UnionType]
    """A field and a type whose values mean something else there, rather than nothing."""


FORMATS = {
    "anthropic": Format(ANTHROPIC, named_sse, anthropic, ("type", str)),
    "google": Format(GOOGLE, sse, google, ("index", int | float)),
    "ollama": Format(OLLAMA, ndjson, ollama, ("done", int)),
}


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (*at, name)
        yield from paths(member, (*at, name))


def replaced(value: Any, path: Path, odd: Any) -> Any:
    if not path:
        return odd
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], odd)
    return copy


def read(reader: Reader, pieces: list[bytes]) -> tuple[AssistantMessage, Finish | None]:
    gathering = Gathering()
    for piece in pieces:
        if not reader.done and (chunk := reader.feed(piece)):
            gathering.add(chunk)
    if not reader.done and (chunk := reader.end()):
        gathering.add(chunk)
    assert reader.error is None
    finish = reader.finish() if reader.finished else None
    return gathering.message(finish.provider_data if finish else None), finish


def said(message: AssistantMessage) -> set[str]:
    arguments = [call.function.arguments for call in message.tool_calls or ()]
    return set(WORDS.findall(" ".join([message.content or "", message.reasoning or "", *arguments])))


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, path) for name, form in FORMATS.items() for path in paths(form.events) if len(path) > 1],
    ids=lambda value: value if isinstance(value, str) else ".".join(map(str, value)),
)
def test_an_odd_value_costs_no_other_words(name: str, path: Path) -> None:
    form = FORMATS[name]
    for odd in ODD:
        field, kind = form.other_meaning
        if path[-1] == field and isinstance(odd, kind):
            continue
        events = replaced(form.events, path, odd)
        message, _ = read(form.reader(), [form.written(events)])
        assert said(message) == set(WORDS.findall(json.dumps(events))), odd


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_no_cut_changes_what_an_odd_reply_says(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    path = data.draw(st.sampled_from([path for path in paths(form.events) if len(path) > 1]))
    odd = data.draw(st.sampled_from(ODD))
    stream = form.written(replaced(form.events, path, odd))
    cuts = data.draw(st.lists(st.integers(min_value=0, max_value=len(stream)), max_size=12))
    edges = sorted({0, len(stream), *cuts})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]

    assert without_ids(read(form.reader(), pieces)) == without_ids(read(form.reader(), [stream]))


def without_ids(result: tuple[AssistantMessage, Finish | None]) -> str:
    """Calls without an id get one that is random."""
    return re.sub(r"call_[0-9a-f]{24}", "call", repr(result))
