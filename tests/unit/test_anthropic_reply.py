"""Replies in the format of Anthropic's Messages API, streamed and whole."""

import json
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.requests import AssistantMessage
from contracts.usage import Usage, UsagePart, UsageSource
from workers.providers import anthropic_errors
from workers.providers.anthropic_reply import MessageReader
from workers.providers.base import Chunk, Finish, Gathering, Stated

USAGE = {"input_tokens": 3, "output_tokens": 1}


def reader() -> MessageReader:
    return MessageReader(
        classify=lambda body: anthropic_errors.from_body(body, provider="anthropic", key=None), warnings=("before",)
    )


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "model": "m1", "content": [], "usage": {**USAGE, **usage}}
    return {"type": "message_start", "message": message}


def block(*deltas: dict[str, Any], index: int = 0, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": fields},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(*parts: str, index: int = 0) -> list[dict[str, Any]]:
    return block(*({"type": "text_delta", "text": part} for part in parts), index=index, type="text", text="")


def call(*fragments: str, index: int = 0, **fields: Any) -> list[dict[str, Any]]:
    deltas = ({"type": "input_json_delta", "partial_json": fragment} for fragment in fragments)
    return block(
        *deltas, index=index, **{"type": "tool_use", "id": f"toolu_{index}", "name": "f", "input": {}, **fields}
    )


def stop(reason: str | None = "end_turn", *, details: Any = None, **usage: Any) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9, **usage}},
        {"type": "message_stop"},
    ]


def read(*events: dict[str, Any]) -> tuple[AssistantMessage, Finish]:
    """Read at once, and byte by byte, which must not differ."""
    found = [_read(sse(*events), size) for size in (1, 1_000_000)]
    assert found[0] == found[1]
    return found[0]


def _read(data: bytes, size: int) -> tuple[AssistantMessage, Finish]:
    messages = reader()
    gathering = Gathering()
    for at in range(0, len(data), size):
        if chunk := messages.feed(data[at : at + size]):
            gathering.add(chunk)
    assert messages.error is None
    assert messages.finished
    finish = messages.finish()
    return gathering.message(finish.provider_data), finish


def calls_of(message: AssistantMessage) -> list[tuple[str, str, str]]:
    return [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]


def test_what_came_together_is_one_chunk() -> None:
    assert reader().feed(sse(start(), *text("a", "b"), *text("c", index=1))) == Chunk(text="abc")


def test_pings_and_events_of_later_versions_are_skipped() -> None:
    message, finish = read(start(), {"type": "ping"}, *text("a"), {"type": "news", "delta": {"x": 1}}, *stop())
    assert (message.content, finish.finish_reason, finish.response_id, finish.response_model) == (
        "a",
        "stop",
        "msg_1",
        "m1",
    )
    assert finish.warnings == ("before",)


def test_plain_replies_need_nothing_back() -> None:
    message, _ = read(start(), *text("a"), *call('{"x": 1}', index=1, caller={"type": "direct"}), *stop("tool_use"))
    assert message.provider_data is None


@pytest.mark.parametrize(
    ("fragments", "given", "arguments"),
    [
        (['{"x"', ": 1}"], {}, '{"x": 1}'),
        ([""], {}, "{}"),
        ([], {}, "{}"),
        ([], {"x": 1}, '{"x":1}'),
    ],
    ids=["in fragments", "without arguments", "without fragments", "whole at its beginning"],
)
def test_puts_tool_calls_together(fragments: list[str], given: dict[str, Any], arguments: str) -> None:
    message, finish = read(
        start(), *text("a"), *call(*fragments, index=1, input=given), *call(index=2), *stop("tool_use")
    )
    assert calls_of(message) == [("toolu_1", "f", arguments), ("toolu_2", "f", "{}")]
    assert finish.finish_reason == "tool_calls"


def test_a_call_without_its_stop_is_whole_at_the_end() -> None:
    message, _ = read(start(), *call()[:-1], *stop("tool_use"))
    assert calls_of(message) == [("toolu_0", "f", "{}")]


def test_thoughts_are_kept_with_their_signatures() -> None:
    thoughts = block(
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "thinking_delta", "thinking": "…"},
        {"type": "signature_delta", "signature": "c2ln"},
        type="thinking",
        thinking="",
        signature="",
    )
    hidden = block(index=1, type="redacted_thinking", data="ZGF0YQ==")
    message, _ = read(start(), *thoughts, *hidden, *text("a", index=2), *call('{"x": 1}', index=3), *stop("tool_use"))
    assert (message.reasoning, message.content) == ("Hm…", "a")
    assert message.provider_data == {
        "anthropic": {
            "content": [
                {"type": "thinking", "thinking": "Hm…", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "toolu_3", "name": "f", "input": {"x": 1}},
            ]
        }
    }


def test_what_cannot_come_back_is_not_kept() -> None:
    """Thoughts without a signature, as gateways make them, and texts of nothing."""
    unsigned = block({"type": "thinking_delta", "thinking": "Hm"}, type="thinking", thinking="")
    message, _ = read(start(), *unsigned, *text(index=1), *text("a", index=2), *stop())
    assert message.reasoning == "Hm"
    assert message.provider_data == {"anthropic": {"content": [{"type": "text", "text": "a"}]}}


def test_blocks_of_the_vendors_own_tools_are_kept_and_not_shown() -> None:
    search = block(
        {"type": "input_json_delta", "partial_json": '{"query": "x"}'},
        type="server_tool_use",
        id="srvtoolu_1",
        name="web_search",
        input={},
    )
    found = block(index=1, type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[{"url": "u"}])
    cited = block(
        {"type": "text_delta", "text": "a"},
        {"type": "citations_delta", "citation": {"url": "u"}},
        {"type": "citations_delta", "citation": {"url": "v"}},
        index=2,
        type="text",
        text="",
        citations=[],
    )
    message, finish = read(start(), *search, *found, *cited, *stop("pause_turn"))
    assert (message.content, message.tool_calls, finish.finish_reason) == ("a", None, "stop")
    assert "pause_turn" in finish.warnings[-1]
    assert message.provider_data == {
        "anthropic": {
            "content": [
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "u"}]},
                {"type": "text", "text": "a", "citations": [{"url": "u"}, {"url": "v"}]},
            ]
        }
    }


def test_blocks_of_later_versions_grow_too() -> None:
    compaction = block(
        {"type": "compaction_delta", "content": "Sum", "encrypted_content": "a"},
        {"type": "compaction_delta", "content": "mary", "encrypted_content": "b"},
        type="compaction",
        content=None,
    )
    message, _ = read(start(), *compaction, *text("a", index=1), *stop())
    assert message.provider_data == {
        "anthropic": {
            "content": [
                {"type": "compaction", "content": "Summary", "encrypted_content": "ab"},
                {"type": "text", "text": "a"},
            ]
        }
    }


@pytest.mark.parametrize(
    ("said", "meant", "warns"),
    [
        ("end_turn", "stop", False),
        ("stop_sequence", "stop", False),
        ("max_tokens", "length", False),
        ("model_context_window_exceeded", "length", False),
        ("refusal", "content_filter", False),
        ("pause_turn", "stop", True),
        ("compaction", "stop", True),
        ("something_new", "stop", True),
        (None, "stop", True),
    ],
)
def test_says_why_it_ended(said: str | None, meant: str, warns: bool) -> None:
    _, finish = read(start(), *text("a"), *stop(said))
    assert finish.finish_reason == meant
    assert (len(finish.warnings) > 1) is warns


def test_a_refusal_has_its_explanation() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    message, finish = read(start(), *text("a"), *stop("refusal", details=details))
    assert (message.content, message.refusal, finish.finish_reason) == ("a", "Not this.", "content_filter")


@pytest.mark.parametrize(
    ("at_start", "at_end", "usage"),
    [
        ({}, {}, (3, 9, 0, 0, 0)),
        ({"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 100}, {}, (1103, 9, 1000, 100, 0)),
        ({"cache_read_input_tokens": 1000}, {"input_tokens": 50, "cache_read_input_tokens": 0}, (50, 9, 0, 0, 0)),
        ({}, {"output_tokens_details": {"thinking_tokens": 4}}, (3, 9, 0, 0, 4)),
    ],
    ids=["in two places", "cached", "the last counts", "thinking"],
)
def test_usage_is_a_total(at_start: Any, at_end: Any, usage: tuple[int, ...]) -> None:
    _, finish = read(start(**at_start), *text("a"), *stop(**at_end))
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    assert finish.usage == Usage(source=UsageSource.VENDOR, **dict(zip(names, usage, strict=True)))


def test_usage_without_its_end_is_none() -> None:
    """One output token, as the start says, would be a wrong bill."""
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert read(start(), *text("a"), delta, {"type": "message_stop"})[1].usage is None


def test_cache_writes_of_an_hour_are_told_apart() -> None:
    written = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
    at_start = start(cache_creation_input_tokens=100, cache_creation=written)

    usage = read(at_start, *text("a"), *stop())[1].usage

    assert usage == Usage(
        source=UsageSource.VENDOR,
        input_tokens=103,
        output_tokens=9,
        cache_write_tokens=100,
        cache_write_1h_tokens=70,
    )


def test_what_is_billed_beside_the_reply_is_a_part_of_the_usage() -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 7},
        {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 50, "output_tokens": 5},
        {"type": "message", "input_tokens": 3, "output_tokens": 9},
    ]

    usage = read(start(), *text("a"), *stop(iterations=iterations))[1].usage

    assert usage == Usage(
        source=UsageSource.VENDOR,
        input_tokens=3 + 1000 + 50,
        output_tokens=9 + 7 + 5,
        cache_read_tokens=900,
        parts=(
            UsagePart(input_tokens=1000, output_tokens=7, cache_read_tokens=900),
            UsagePart(model="claude-opus-5", input_tokens=50, output_tokens=5),
        ),
    )


def test_what_a_fallback_model_said_is_its_own_part_of_the_usage() -> None:
    iteration = {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 3, "output_tokens": 9}

    usage = read(start(), *text("a"), *stop(iterations=[iteration]))[1].usage

    part = UsagePart(model="claude-opus-4-8", input_tokens=3, output_tokens=9)
    assert usage == Usage(source=UsageSource.VENDOR, input_tokens=3, output_tokens=9, parts=(part,))


def test_a_refusal_before_any_output_is_not_billed() -> None:
    assert read(start(), *stop("refusal"))[1].usage == Usage(source=UsageSource.VENDOR)
    assert read(start(), *text("a"), *stop("refusal"))[1].usage == Usage(
        source=UsageSource.VENDOR, input_tokens=3, output_tokens=9
    )


@pytest.mark.parametrize(
    ("usage", "tier"),
    [
        ({}, None),
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, None),
        ({"inference_geo": "not_available"}, None),
        ({"service_tier": "priority"}, "priority"),
        ({"speed": "fast"}, "fast"),
        ({"service_tier": "batch", "inference_geo": "us"}, "batch+us"),
        ({"service_tier": 7}, "unknown"),
        ({"service_tier": "x" * 1000}, "unknown"),
    ],
)
def test_the_service_tier_is_what_the_vendor_served(usage: dict[str, Any], tier: str | None) -> None:
    assert read(start(**usage), *text("a"), *stop())[1].service_tier == tier


def test_what_is_stated_before_the_end_is_known_when_the_stream_is_cut() -> None:
    messages = reader()
    messages.feed(sse(start(cache_read_input_tokens=7, service_tier="priority"), *text("a")))
    at_first = Usage(source=UsageSource.VENDOR, input_tokens=10, output_tokens=1, cache_read_tokens=7)
    assert messages.stated == Stated(at_first, service_tier="priority", response_model="m1")

    messages.feed(sse(stop()[0]))

    whole = at_first.model_copy(update={"output_tokens": 9})
    assert messages.stated == Stated(whole, is_final=True, service_tier="priority", response_model="m1")


@pytest.mark.parametrize("events", [[], [start()], [start(), *text("a")], [start(), *text("a"), *stop()[:1]]])
def test_without_message_stop_it_is_not_finished(events: list[dict[str, Any]]) -> None:
    messages = reader()
    messages.feed(sse(*events))
    messages.end()
    assert not messages.finished


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}  }\n\n', "overloaded"),
        (b'data: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n', "provider_unavailable"),
        (b'data: {"error":{"type":"rate_limit_error","message":"x"}}\n\n', "rate_limited"),
        (b'data: {"error":"no"}\n\n', "provider_unavailable"),
        (b"event: error\ndata: null\n\n", "provider_unavailable"),
        (b'data: {"type": "message_start", "message": "none", "error": {"message": "x"}}\n\n', "provider_unavailable"),
        (b"data: {broken\n\n", "stream_interrupted"),
    ],
)
def test_errors_inside_the_stream(data: bytes, code: str) -> None:
    messages = reader()
    messages.feed(data)
    assert messages.error
    assert messages.error.code == ErrorCode(code)
    assert not messages.finished


def test_a_whole_reply_is_understood() -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "model": "m1",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 9},
    }
    messages = reader()
    assert messages.feed(b" \n" + json.dumps(message).encode()) is None
    chunk = messages.end()
    assert chunk
    assert (chunk.text, chunk.reasoning, chunk.tool_calls[0].arguments) == ("a", "Hm", '{"x":1}')
    finish = messages.finish()
    assert (finish.finish_reason, finish.response_model) == ("tool_calls", "m1")
    assert finish.provider_data == {"anthropic": {"content": message["content"]}}


def test_a_whole_reply_that_is_cut_is_not_finished() -> None:
    messages = reader()
    messages.feed(b'{"id": "msg_1", "type": "message", "content": [{"type": "text", "text": "a')
    messages.end()
    assert not messages.finished
    assert messages.error is None
