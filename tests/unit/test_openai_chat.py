"""OpenAI's chat format, with the oddities of the servers that speak it."""

import json
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.requests import AssistantMessage, CompletionRequest
from contracts.usage import Usage, UsageSource
from workers.providers import openai_errors
from workers.providers.base import Chunk, Finish, Gathering
from workers.providers.openai_chat import ChatReader
from workers.providers.openai_request import request_body


def reader() -> ChatReader:
    return ChatReader(
        provider="openai", classify=lambda body: openai_errors.from_body(body, provider="openai", key=None)
    )


def sse(*events: dict[str, Any] | str) -> bytes:
    return b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n" for event in events
    )


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def read(*events: dict[str, Any] | str) -> tuple[AssistantMessage, Finish]:
    chat = reader()
    gathering = Gathering()
    for chunk in (chat.feed(sse(*events)), chat.end()):
        if chunk:
            gathering.add(chunk)
    assert chat.error is None
    assert chat.finished
    return gathering.message(), chat.finish()


def calls_of(*tool_calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and arguments of the calls that these deltas make."""
    message, finish = read(*(delta(tool_calls=list(part)) for part in tool_calls), delta("tool_calls"), "[DONE]")
    assert finish.finish_reason == "tool_calls"
    assert message.tool_calls
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    return [(call.function.name, call.function.arguments) for call in message.tool_calls]


def call(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**fields, "function": function}


def test_what_came_together_is_one_chunk() -> None:
    assert reader().feed(sse(delta(content="a"), delta(content="b"), delta(reasoning_content="r"))) == Chunk(
        text="ab", reasoning="r"
    )


def test_a_role_alone_is_no_chunk() -> None:
    assert reader().feed(sse(delta(role="assistant", content=""))) is None


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        (
            [[call("f", "", index=0, id="a")], [call(None, '{"x"', index=0)], [call(None, ": 1}", index=0)]],
            [("f", '{"x": 1}')],
        ),
        ([[call("f", "{}", index=0, id="a"), call("g", "{}", index=1, id="b")]], [("f", "{}"), ("g", "{}")]),
        (
            [[call("f", "{", index=0, id="a")], [call("g", "[", index=1, id="b")], [call(None, "}", index=0)]],
            [("f", "{}"), ("g", "[")],
        ),
        ([[call("f", "{}", id="a")], [call("g", "{}", id="b")]], [("f", "{}"), ("g", "{}")]),
        ([[call("f", "{", id="a")], [call(None, "}")]], [("f", "{}")]),
        ([[call("f", "{", id="a")], [call(None, "}", id="a")]], [("f", "{}")]),
        ([[call("f", "{}")], [call("g", "{}")]], [("f", "{}"), ("g", "{}")]),
        ([[call("f", "{}", index=0, id="a")], [call("g", "{}", index=0, id="b")]], [("f", "{}"), ("g", "{}")]),
        ([[call("f", "{", index=0, id="a")], [call("f", "}", index=0, id="a")]], [("f", "{}")]),
        ([[call("f", "{", index=0, id="a")], [call(None, "}", index=0, id="other")]], [("f", "{}")]),
        ([[call("f", {"x": 1}, index=0, id="a")]], [("f", '{"x":1}')]),
        ([[call("f", None, index=0, id="a")]], [("f", "")]),
        ([[call("f", "{}", index="1", id="")]], [("f", "{}")]),
        ([[call("my tool!", "{}", index=0, id="a")]], [("my_tool_", "{}")]),
    ],
    ids=[
        "in fragments",
        "two whole ones at once",
        "interleaved",
        "without index",
        "fragments without index",
        "fragments with the id again",
        "without index and id",
        "two under one index",
        "the name again in each fragment",
        "another id in each fragment",
        "arguments as an object",
        "no arguments",
        "index as text",
        "a name that is none",
    ],
)
def test_puts_tool_calls_together(parts: list[list[dict[str, Any]]], calls: list[tuple[str, str]]) -> None:
    assert calls_of(*parts) == calls


def test_the_old_function_call_is_a_tool_call() -> None:
    message, finish = read(delta(function_call={"name": "f", "arguments": "{}"}), delta("function_call"), "[DONE]")
    assert message.tool_calls
    assert finish.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("said", "meant", "warns"),
    [
        ("stop", "stop", False),
        ("length", "length", False),
        ("max_tokens", "length", False),
        ("content_filter", "content_filter", False),
        ("eos", "stop", True),
        (None, "stop", True),
    ],
)
def test_finish_reasons_mean_the_same_everywhere(said: str | None, meant: str, warns: bool) -> None:
    _, finish = read(delta(content="x"), delta(said), "[DONE]")
    assert (finish.finish_reason, bool(finish.warnings)) == (meant, warns)


@pytest.mark.parametrize("said", ["stop", "tool_calls", "eos", None])
def test_a_reply_with_tool_calls_finishes_for_them(said: str | None) -> None:
    _, finish = read(delta(tool_calls=[call("f", "{}", index=0, id="a")]), delta(said), "[DONE]")
    assert finish.finish_reason == "tool_calls"


def test_a_tool_call_that_was_cut_off_finished_for_length() -> None:
    _, finish = read(delta(tool_calls=[call("f", "{", index=0, id="a")]), delta("length"), "[DONE]")
    assert finish.finish_reason == "length"


@pytest.mark.parametrize("said", ["error", "abort", "insufficient_system_resource"])
def test_a_reply_that_its_server_broke_off_is_interrupted(said: str) -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="half"), delta(said))) == Chunk(text="half")
    assert chat.error
    assert chat.error.code == ErrorCode.STREAM_INTERRUPTED


def test_nothing_but_the_end_marker_is_no_reply() -> None:
    chat = reader()
    chat.feed(sse("[DONE]"))
    assert chat.done
    assert not chat.finished


def test_an_end_without_usage_is_an_end() -> None:
    _, finish = read(delta(content="x"), delta("stop"))
    assert finish.usage is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_has_two_names(field: str) -> None:
    message, _ = read(delta(**{field: "hmm"}), delta("stop"))
    assert message.reasoning == "hmm"


def test_reasoning_under_both_names_is_said_once() -> None:
    message, _ = read(delta(reasoning="hmm", reasoning_content="hmm"), delta("stop"))
    assert message.reasoning == "hmm"


def test_content_can_come_as_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}
    message, _ = read(delta(content=[thinking]), delta(content=[{"type": "text", "text": "yes"}, 7]), delta("stop"))
    assert (message.reasoning, message.content) == ("hmm", "yes")


def test_a_refusal_is_kept_apart() -> None:
    message, finish = read(delta(refusal="I can"), delta(refusal="not."), delta("stop"))
    assert (message.refusal, message.content, finish.finish_reason) == ("I cannot.", None, "stop")


def test_further_choices_are_ignored() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    message, finish = read(delta(content="yes"), other, delta("stop"), other)
    assert (message.content, finish.finish_reason) == ("yes", "stop")


USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@pytest.mark.parametrize(
    ("event", "usage"),
    [
        ({"choices": [], "usage": USAGE}, Usage(input_tokens=10, output_tokens=20)),
        ({"usage": USAGE}, Usage(input_tokens=10, output_tokens=20)),
        ({**delta(content=""), "usage": USAGE}, Usage(input_tokens=10, output_tokens=20)),
        ({"choices": [{"index": 0, "delta": {}, "usage": USAGE}]}, Usage(input_tokens=10, output_tokens=20)),
        ({"choices": [], "x_groq": {"usage": USAGE}}, Usage(input_tokens=10, output_tokens=20)),
        (
            {
                "choices": [],
                "usage": {
                    **USAGE,
                    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                    "completion_tokens_details": {"reasoning_tokens": 15},
                },
            },
            Usage(input_tokens=10, output_tokens=20, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=15),
        ),
        (
            {
                "choices": [],
                "usage": {**USAGE, "total_tokens": 45, "completion_tokens_details": {"reasoning_tokens": 15}},
            },
            Usage(input_tokens=10, output_tokens=35, reasoning_tokens=15),
        ),
        (
            {"choices": [], "usage": {**USAGE, "prompt_tokens_details": None, "prompt_cache_hit_tokens": 8}},
            Usage(input_tokens=10, output_tokens=20, cache_read_tokens=8),
        ),
    ],
    ids=["own chunk", "no choices", "with choices", "Moonshot", "Groq", "details", "xAI", "DeepSeek"],
)
def test_usage_is_normalised(event: dict[str, Any], usage: Usage) -> None:
    _, finish = read(delta(content="x"), delta("stop"), event, "[DONE]")
    assert finish.usage == usage.model_copy(update={"source": UsageSource.VENDOR})


def test_the_last_running_total_counts() -> None:
    _, finish = read(
        {**delta(content="x"), "usage": {**USAGE, "completion_tokens": 1}}, {**delta("stop"), "usage": USAGE}
    )
    assert finish.usage
    assert finish.usage.output_tokens == 20


def test_azures_first_chunk_names_nothing() -> None:
    first = {"choices": [], "id": "", "model": "", "prompt_filter_results": [{"prompt_index": 0}]}
    _, finish = read(first, delta(content="x"), delta("stop"))
    assert (finish.response_id, finish.response_model) == ("c1", "m1")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"error": {"message": "boom", "type": "server_error", "code": None}}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"error": {"message": "slow", "type": "overloaded_error"}}, ErrorCode.OVERLOADED),
        ({"error": {"message": "bad", "code": 400}}, ErrorCode.INVALID_REQUEST),
        ({"error": {"message": "gateway", "code": 502}, **delta("error")}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"error": {"message": "no", "code": "tool_use_failed", "status_code": 400}}, ErrorCode.INVALID_REQUEST),
        ({"error": {"message": "filtered", "code": "content_filter", "status": 400}}, ErrorCode.CONTENT_FILTERED),
        ({"error": "boom"}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"object": "error", "message": "boom", "type": "BadRequestError", "code": 400}, ErrorCode.INVALID_REQUEST),
        ({"message": "Too many requests", "code": 429}, ErrorCode.RATE_LIMITED),
        ({"detail": "boom"}, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_an_error_in_the_stream_is_one_in_any_form(event: dict[str, Any], code: ErrorCode) -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="half"), event, "[DONE]")) == Chunk(text="half")
    assert chat.error
    assert (chat.error.code, chat.error.provider) == (code, "openai")


def test_an_error_event_is_an_error_whatever_it_holds() -> None:
    chat = reader()
    chat.feed(b'event: error\ndata: {"reason": "boom"}\n\n')
    assert chat.error


def test_pings_and_foreign_events_are_skipped() -> None:
    chat = reader()
    assert chat.feed(b": ping\n\nevent: ping\ndata: ping\n\ndata: {}\n\n" + sse({"x": 1}, delta(content="a"))) == Chunk(
        "a"
    )
    assert chat.error is None


def test_a_whole_reply_is_read_where_a_stream_was_asked() -> None:
    chat = reader()
    body = json.dumps(
        {
            "id": "c1",
            "model": "m1",
            "choices": [
                {
                    "index": 0,
                    "message": {"content": "Olá", "tool_calls": [call("f", "{}", id="a")]},
                    "finish_reason": "tool_calls",
                }
            ],
            "usage": USAGE,
        },
        indent=1,
    ).encode()
    pieces = b"\n  " + body
    assert [chat.feed(pieces[at : at + 1]) for at in range(len(pieces))] == [None] * len(pieces)
    chunk = chat.end()
    assert chunk
    assert (chunk.text, chunk.tool_calls[0].name) == ("Olá", "f")
    assert chat.finish().finish_reason == "tool_calls"


def test_half_a_whole_reply_is_none() -> None:
    chat = reader()
    chat.feed(b'{"choices": [{"index": 0, "mess')
    assert chat.end() is None
    assert not chat.finished


def test_an_event_that_is_no_json_interrupts() -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="a"), '{"choices": [')) == Chunk(text="a")
    assert chat.error
    assert chat.error.code == ErrorCode.STREAM_INTERRUPTED


def test_the_body_holds_what_was_asked_and_nothing_else() -> None:
    request = CompletionRequest.model_validate(
        {
            "id": "r",
            "tenant": "t",
            "agent": "a",
            "model": "openai/gpt-4o",
            "messages": [
                {
                    "role": "assistant",
                    "content": "x",
                    "reasoning": "hidden",
                    "provider_data": {"anthropic": {"signature": "s"}},
                }
            ],
            "metadata": {"run": 1},
        }
    )
    body = request_body(request, model="gpt-4o", max_tokens_field="max_completion_tokens", stream_options=None)
    assert body == {"model": "gpt-4o", "messages": [{"role": "assistant", "content": "x"}], "stream": True}


@pytest.mark.parametrize("data", [b'[{"choices": [', b'{"choices": 1, "id": "', b'data: {"choices": 1, "id'])
def test_what_is_cut_in_another_form_is_not_finished(data: bytes) -> None:
    chat = reader()
    assert chat.feed(data) is None
    assert chat.end() is None
    assert (chat.finished, chat.error) == (False, None)
